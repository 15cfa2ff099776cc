"""``_base_ = 'mmvitscale::NAME'`` in every program that has imported mmvitscale, whoever reads the config.

MMEngine's ``Config`` is taught it (``config/names.py``) when it is imported: to import it for that, with NumPy and what it logs
with, would make every ``import mmvitscale`` wait.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_CONFIG = 'mmengine.config.config'


def teach_mmengine() -> None:
    """Now if MMEngine's configs are imported already, else as soon as they are."""
    if _CONFIG in sys.modules:
        _teach(sys.modules[_CONFIG])
    else:
        sys.meta_path.insert(0, _AtImport())


def _teach(module: ModuleType) -> None:
    from mmvitscale.config.names import extend_base_lookup

    extend_base_lookup(module.Config)


class _AtImport(MetaPathFinder):
    """Finds the one module as Python does, once, and has it taught when it is complete."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _CONFIG:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_teach(module: ModuleType) -> None:
            run(module)
            _teach(module)

        spec.loader.exec_module = run_and_teach  # type: ignore[method-assign]
        return spec
