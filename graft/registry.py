"""Named families (strategies, metrics, heads, ...): a decorator adds a member, a near miss is named."""

from collections.abc import Callable, Iterator
from typing import Any

from graft.errors import GraftError, near_miss


class Registry:
    """A family of functions or classes by name, in the order in which they were added.

    >>> STRATEGIES = Registry("strategy")
    >>> @STRATEGIES.add("Lee et al. 2023, arXiv:2210.11466")
    ... def surgical(depth, epochs, lr): ...
    >>> STRATEGIES["surgical"] is surgical
    True
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.sources: dict[str, str] = {}
        self._members: dict[str, Any] = {}

    def add(self, source: str, name: str | None = None) -> Callable[[Any], Any]:
        """Decorator. source: where the method comes from. name: the function's own name unless given."""

        def put(member: Any) -> Any:
            key = name or member.__name__
            assert key not in self._members, f"{self.kind} {key!r} is registered twice"
            self._members[key] = member
            self.sources[key] = source
            return member

        return put

    def __getitem__(self, name: str) -> Any:
        if name not in self._members:
            raise GraftError(f"unknown {self.kind} {name!r}, expected one of {', '.join(self._members)}.{near_miss(name, self._members)}")
        return self._members[name]

    def resolve(self, name: "str | Callable[..., Any]") -> Any:
        """A member by its name; a user's own function is handed back as it is."""
        return self[name] if isinstance(name, str) else name

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def describe(self, name: str) -> str:
        """First line of the member's docstring."""
        return (self[name].__doc__ or "").strip().partition("\n")[0]
