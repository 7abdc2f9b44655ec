"""What a site's own look at its machines is: a function that returns a few named facts."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

Value = bool | int | float | str | None
Look = Callable[[], Mapping[str, Value]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteProbe:
    """A function that looks at the machine, and the names of the texts that may leave it."""

    name: str
    look: Look
    public: tuple[str, ...]
    module: str  # where it is defined; an import elsewhere does not register it again


def site_probe(*, public: Iterable[str] = ()) -> Callable[[Look], SiteProbe]:
    """Make a function a probe of a site: `fact("scratch_free_gib")` of the snapshot's `site`.

    It runs in a process of its own with a deadline, and returns numbers, texts, yes or no, or None
    for what is not there. Its texts are left out of a snapshot without --identify, but for those
    that *public* names.
    """

    def decorate(look: Look) -> SiteProbe:
        return SiteProbe(
            name=look.__name__, look=look, public=tuple(public), module=look.__module__
        )

    return decorate
