"""Times programs in turn, so that all meet the same moods of a machine."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# A program is called again for so long before it is the next one's turn. The first call of a turn
# finds caches and memory as the others left them, those behind it as it left them itself.
TURN_SECONDS = 3.0


@dataclass(frozen=True)
class Timing:
    """Seconds of each call of a program."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """The distance of the outer quartiles, as a share of the median."""
        if len(self.seconds) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.seconds, n=4)
        return (third - first) / self.median


def take_turns(
    programs: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2
) -> dict[str, Timing]:
    """Calls the programs A B C, A B C ... in so many rounds, after a warm-up of each.

    A program has to wait for its own result.
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
