"""Times programs in turn, so that changes in the speed of a machine affect all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# A program is called repeatedly for so long before it is the next one's turn. The first call of a
# turn finds caches and memory as the others left them, later calls as the program itself left them.
TURN_SECONDS = 3.0


@dataclass(frozen=True)
class Timing:
    """The time that each call of a program took, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """The interquartile range, as a share of the median."""
        if len(self.seconds) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.seconds, n=4)
        return (third - first) / self.median


def take_turns(
    programs: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2
) -> dict[str, Timing]:
    """Lets programs take turns, A B C A B C ..., for a number of rounds.

    Args:
      programs: functions by name, which wait for their own results.
      rounds: the turns of each program.
      warm_up: calls of each program before the first round, which are not timed.
    """
    for program in programs.values():
        for _ in range(warm_up):
            program()
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            end = time.perf_counter() + TURN_SECONDS
            now = time.perf_counter()
            while now < end:
                program()
                before, now = now, time.perf_counter()
                seconds[name].append(now - before)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}
