"""Combinators: layers made of layers."""

from fbp.combinators._graph import Graph as Graph
from fbp.combinators._group import Group as Group
from fbp.combinators._join import Add as Add
from fbp.combinators._join import Concat as Concat
from fbp.combinators._map import map_layers as map_layers
from fbp.combinators._parallel import Parallel as Parallel
from fbp.combinators._parts import Each as Each
from fbp.combinators._parts import On as On
from fbp.combinators._parts import Pick as Pick
from fbp.combinators._recurrent import Recurrent as Recurrent
from fbp.combinators._remat import Remat as Remat
from fbp.combinators._repeat import Repeat as Repeat
from fbp.combinators._residual import Residual as Residual
from fbp.combinators._serial import Serial as Serial
from fbp.combinators._stack import Stack as Stack
from fbp.combinators._sum import Sum as Sum
