"""Several devices: where arrays lie, and the step whose arrays stay there."""

from fbp.mesh._layout import Layout as Layout
from fbp.mesh._make import make_mesh as make_mesh
from fbp.mesh._planned import Planned as Planned
from fbp.mesh._planned import planned as planned
from fbp.mesh._program import Sent as Sent
from fbp.mesh._program import Work as Work
from fbp.mesh._program import work_of as work_of
from fbp.mesh._rules import default_rules as default_rules
