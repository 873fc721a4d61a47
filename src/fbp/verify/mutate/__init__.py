"""Plants bugs in backward rules, one at a time, and asks whether tests notice.

A gradient test is worth what it notices. This changes the source of a backward in memory, one sign,
term, factor, axis at a time, runs the tests on each, and names the changes that none of them saw.
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
    """The mutants of the backward of a target; see `score` for what a target is."""
    return mutants_in(places_of(target, helpers))
