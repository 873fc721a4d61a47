"""Plants bugs in backward rules, one at a time, and reports those that no test detects.

The source of a backward is changed in memory, one sign, term, factor or axis at a time, and the
tests are run on each change.
"""

from typing import Any

from fbp.verify.mutate._find import places_of as places_of
from fbp.verify.mutate._operators import Mutant as Mutant
from fbp.verify.mutate._operators import mutants_in as mutants_in
from fbp.verify.mutate._score import Result as Result
from fbp.verify.mutate._score import Score as Score
from fbp.verify.mutate._source import MutateError as MutateError
from fbp.verify.mutate._trial import score as score


def mutants_of(target: Any, helpers: bool = False) -> list[Mutant]:
    """The mutants of the backward of a target; `score` says what a target may be."""
    return mutants_in(places_of(target, helpers))
