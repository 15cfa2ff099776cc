"""Arguments under the names that they had in the release before, so that configs of then go on."""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Init = TypeVar('Init', bound=Callable[..., None])


def renamed_arguments(values: Mapping[str, Mapping[str, str]] | None = None, **names: str) -> Callable[[Init], Init]:
    """Decorator of a constructor: keyword arguments of old names are passed under their new ones, with a warning.

    Where both are there the old one counts: it is an override of then, and the new one stands in the recipe that it overrides.

    Args:
        values: new name of an argument -> its old values and what they are called now.
        names: old names and new ones.
    """

    def decorate(init: Init) -> Init:
        @functools.wraps(init)
        def wrapper(self: object, *args: Any, **kwargs: Any) -> None:
            for old, new in names.items():
                if old in kwargs:
                    _warn(self, f'{old} is called {new}', f'it replaces {new}={kwargs[new]!r}' if new in kwargs else '')
                    kwargs[new] = kwargs.pop(old)
            for name, renamed in (values or {}).items():
                if isinstance(kwargs.get(name), str) and kwargs[name] in renamed:
                    _warn(self, f'{name}={kwargs[name]!r} is called {renamed[kwargs[name]]!r}')
                    kwargs[name] = renamed[kwargs[name]]
            init(self, *args, **kwargs)

        return wrapper  # type: ignore[return-value]

    return decorate


def _warn(owner: object, text: str, effect: str = '') -> None:
    from mmengine.logging import print_log  # the tools import this file before they know that anything is to be computed

    print_log(
        f'{type(owner).__name__}: {text} now; {f"{effect}; " if effect else ""}the old name goes with the next release',
        'current',
        level=logging.WARNING,
    )
