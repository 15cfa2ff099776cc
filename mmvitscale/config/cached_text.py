"""A config whose text is formatted once: MMEngine has it formatted again, most of a second each time, for the log, for the file
in the work folder, for each visualization backend and for every checkpoint."""

from typing import Any

from mmengine.config import Config


class CachedTextConfig(Config):
    """MMEngine's config, but ``pretty_text`` is cached until something in the config has changed."""

    @property
    def pretty_text(self) -> str:
        """As MMEngine's."""
        content = repr(self._cfg_dict)
        before, text = self.__dict__.get('_cached', (None, ''))
        if before != content:
            text = super().pretty_text
            self.__dict__['_cached'] = (content, text)
        return text


def with_cached_text(cfg: Any) -> Any:
    """A config of MMEngine's own type, content shared, as one that caches its text; anything else as it is."""
    if type(cfg) is not Config:
        return cfg
    cached = CachedTextConfig.__new__(CachedTextConfig)
    cached.__dict__.update(cfg.__dict__)
    return cached
