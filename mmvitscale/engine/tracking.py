"""Experiment trackers as backends of MMEngine's visualizer: metrics, config and pictures of a training.

MMEngine's own of these names end a training when a server does; MLflow refuses its files and names of pictures, that
of wandb uploads every Python file below the folder it is started in, and that of DVC may replace a repository there.
"""

import json
import logging
import math
import netrc
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.visualization.vis_backend import BaseVisBackend

from mmvitscale.errors import InputError
from mmvitscale.registry import VISBACKENDS
from mmvitscale.utils.error_translation import message_of

# A tracker that fails so often in a row is given up: each attempt may wait for a network.
_PATIENCE = 3
_SECONDS = 20  # for a server to answer
_LONGEST = 500  # characters of a parameter


class TrackingBackend(BaseVisBackend):
    """What all trackers share. The tracker is opened with the first that is added, by the first process alone, as MMEngine's
    visualizer has it; one that cannot be opened ends the training before it begins, and one that fails later does not.

    Args:
        save_dir: <work dir>/<time>/vis_data, which MMEngine's visualizer gives.
        options: further arguments of the function that opens the tracker.
    """

    name = ''
    package = ''

    def __init__(self, save_dir: str, **options: Any):
        super().__init__(save_dir)
        self.options = options
        self._failures = 0
        self._run: Any = None

    @property
    def work_dir(self) -> Path:
        """Of the training."""
        return Path(self._save_dir).absolute().parents[1]

    @property
    def run_name(self) -> str:
        """When the training was started, as in the work dir."""
        return Path(self._save_dir).absolute().parent.name

    @property
    def experiment(self) -> Any:
        """The tracker's own object. Raises InputError where it cannot be opened."""
        if not self._env_initialized:
            self._init_env()
        return self._run

    def _init_env(self) -> None:
        try:
            self._run = self._open()
        except InputError:
            raise
        except ImportError as error:
            raise InputError(
                f'{self.name} cannot be imported ({message_of(error)}); get it with: pip install {self.package}'
            ) from error
        except (Exception, SystemExit) as error:  # of any server, file or key
            raise InputError(
                f'{self.name} cannot be opened ({message_of(error)}); correct its settings, or leave it out of --track'
            ) from error
        self._env_initialized = True

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """The whole config as text, and its short values as parameters, as far as the tracker has such."""
        run = self.experiment
        values = {key: value for key, value in flat(config.to_dict()).items() if len(str(value)) <= _LONGEST}
        self._try(lambda: self._config(run, config.pretty_text, values))

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """(H, W, 3) uint8 RGB."""
        run = self.experiment
        self._try(lambda: self._image(run, name, image, step))

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """A number."""
        self.add_scalars({name: value}, step)

    def add_scalars(self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **kwargs: Any) -> None:
        """Those of them that are numbers."""
        values = {key: number for key, value in scalar_dict.items() if (number := as_number(value)) is not None}
        run = self.experiment
        self._try(lambda: self._scalars(run, values, step))

    def close(self) -> None:
        """Ends the run, if it was begun."""
        if self._env_initialized:
            self._env_initialized = False
            self._failures = 0
            self._try(lambda: self._close(self._run))

    def _try(self, act: Callable[[], object]) -> None:
        if self._failures >= _PATIENCE:
            return
        try:
            act()
            self._failures = 0
        except Exception as error:  # a training of days is worth more than its curves elsewhere
            self._failures += 1
            end = '; nothing more is sent to it' if self._failures == _PATIENCE else ''
            print_log(f'{self.name} failed ({message_of(error)}){end}', 'current', logging.WARNING)

    def _offline(self, how: str) -> None:
        print_log(f'{self.name}: no login found, so the training is tracked offline; {how}', 'current')

    @abstractmethod
    def _open(self) -> Any:
        """The tracker's object."""

    @abstractmethod
    def _config(self, run: Any, text: str, values: dict[str, Any]) -> None: ...

    @abstractmethod
    def _image(self, run: Any, name: str, image: np.ndarray, step: int) -> None: ...

    @abstractmethod
    def _scalars(self, run: Any, values: dict[str, float], step: int) -> None: ...

    @abstractmethod
    def _close(self, run: Any) -> None: ...


def as_number(value: Any) -> float | None:
    """A number, or an array or tensor of one, as float; None for all else."""
    if isinstance(value, (bool, str)) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def flat(item: Any, prefix: str = '') -> dict[str, Any]:
    """Nested dicts, and lists with dicts in them -> the path of each value in it, with dots, -> the value."""
    pairs: Iterator[tuple[Any, Any]] | None = None
    if isinstance(item, dict):
        pairs = iter(item.items())
    elif isinstance(item, (list, tuple)) and any(isinstance(inner, (dict, list)) for inner in item):
        pairs = enumerate(item)
    if pairs is None:
        return {prefix: item}
    found: dict[str, Any] = {}
    for key, value in pairs:
        found.update(flat(value, f'{prefix}.{key}' if prefix else str(key)))
    return found


def _plain(text: str) -> str:
    """A name with the characters that MLflow takes."""
    return ''.join(character if character.isalnum() or character in '_-. /' else '_' for character in text)


@VISBACKENDS.register_module()
class TensorboardVisBackend(TrackingBackend):
    """TensorBoard's event files beside the other logs: ``tensorboard --logdir <work dir>``."""

    name, package = 'TensorBoard', 'tensorboard'

    def _open(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self._save_dir, **self.options)

    def _config(self, run: Any, text: str, values: dict[str, Any]) -> None:
        run.add_text('config', '\n'.join(f'    {line}' for line in text.splitlines()))  # Markdown: as it is

    def _image(self, run: Any, name: str, image: np.ndarray, step: int) -> None:
        run.add_image(name, image, step, dataformats='HWC')
        run.flush()

    def _scalars(self, run: Any, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            run.add_scalar(name, value, step)

    def _close(self, run: Any) -> None:
        run.close()


@VISBACKENDS.register_module()
class MLflowVisBackend(TrackingBackend):
    """MLflow, in ``mlflow.db`` and ``mlartifacts`` of the work dir, or where MLFLOW_TRACKING_URI says. The experiment is
    MLFLOW_EXPERIMENT_NAME, or named as the work dir; each start of the training is a run."""

    name, package = 'MLflow', 'mlflow'

    def _open(self) -> Any:
        # Its own limits let a training wait for minutes where no server answers.
        os.environ.setdefault('MLFLOW_HTTP_REQUEST_MAX_RETRIES', '1')
        os.environ.setdefault('MLFLOW_HTTP_REQUEST_TIMEOUT', str(_SECONDS))
        from mlflow import MlflowClient
        from mlflow.entities import RunStatus

        self._finished = RunStatus.to_string(RunStatus.FINISHED)
        uri = self.options.get('tracking_uri') or os.environ.get('MLFLOW_TRACKING_URI')
        artifacts = None
        if not uri:
            self.work_dir.mkdir(parents=True, exist_ok=True)
            uri, artifacts = f'sqlite:///{self.work_dir / "mlflow.db"}', (self.work_dir / 'mlartifacts').as_uri()
            _without_migration_log()
        client = MlflowClient(tracking_uri=uri)
        name = os.environ.get('MLFLOW_EXPERIMENT_NAME') or self.options.get('experiment') or self.work_dir.name
        found = client.get_experiment_by_name(name)
        identifier = found.experiment_id if found else client.create_experiment(name, artifact_location=artifacts)
        self._id = client.create_run(identifier, run_name=self.run_name).info.run_id
        return client

    def _config(self, run: Any, text: str, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        run.log_text(self._id, text, 'config.py')
        parameters = [Param(_plain(key)[:250], str(value)) for key, value in values.items() if key]
        for i in range(0, len(parameters), 100):  # the most that a server takes at once
            run.log_batch(self._id, params=parameters[i : i + 100])

    def _image(self, run: Any, name: str, image: np.ndarray, step: int) -> None:
        run.log_image(self._id, image, artifact_file=f'{_plain(name)}.png')

    def _scalars(self, run: Any, values: dict[str, float], step: int) -> None:
        from time import time

        from mlflow.entities import Metric

        now = int(1000 * time())
        run.log_batch(self._id, metrics=[Metric(_plain(name), value, now, step) for name, value in values.items()])

    def _close(self, run: Any) -> None:
        run.set_terminated(self._id, self._finished)


def _without_migration_log() -> None:
    """A new database is written table by table, with a line for each."""
    for name in ('mlflow.store.db.utils', 'alembic'):
        logging.getLogger(name).setLevel(logging.WARNING)


@VISBACKENDS.register_module()
class WandbVisBackend(TrackingBackend):
    """Weights & Biases; without a login offline, in the work dir. WANDB_PROJECT and the like hold as always."""

    name, package = 'wandb', 'wandb'

    def _open(self) -> Any:
        import wandb

        self._wandb = wandb
        options = dict(dir=str(self.work_dir), name=f'{self.work_dir.name}_{self.run_name}')
        if not os.environ.get('WANDB_PROJECT'):
            options['project'] = 'mmvitscale'
        if not os.environ.get('WANDB_MODE') and not self._has_login():
            options['mode'] = 'offline'
            self._offline(f'wandb sync {self.work_dir}/wandb/offline-run-* uploads it')
        self.work_dir.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            **{**options, 'settings': wandb.Settings(silent=True, init_timeout=3 * _SECONDS), **self.options},
        )
        run.define_metric('*', step_metric='step')  # validations may count epochs: wandb's own steps only rise
        return run

    @staticmethod
    def _has_login() -> bool:
        if os.environ.get('WANDB_API_KEY'):
            return True
        server = urlparse(os.environ.get('WANDB_BASE_URL', 'https://api.wandb.ai')).hostname
        try:
            return bool(server and netrc.netrc(os.environ.get('NETRC')).authenticators(server))
        except (OSError, netrc.NetrcParseError):
            return False

    def _config(self, run: Any, text: str, values: dict[str, Any]) -> None:
        run.config.update({key: as_json(value) for key, value in values.items()}, allow_val_change=True)
        path = Path(self._save_dir, 'tracked_config.py')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        run.save(str(path), base_path=str(path.parent), policy='now')

    def _image(self, run: Any, name: str, image: np.ndarray, step: int) -> None:
        run.log({name: self._wandb.Image(image), 'step': step})

    def _scalars(self, run: Any, values: dict[str, float], step: int) -> None:
        run.log({**values, 'step': step})

    def _close(self, run: Any) -> None:
        run.finish()


@VISBACKENDS.register_module()
class ClearMLVisBackend(TrackingBackend):
    """ClearML; without credentials offline."""

    name, package = 'ClearML', 'clearml'

    def _open(self) -> Any:
        from clearml import Task

        configured = Path(os.environ.get('CLEARML_CONFIG_FILE') or Path.home() / 'clearml.conf').is_file()
        if not configured and not os.environ.get('CLEARML_API_ACCESS_KEY'):
            Task.set_offline(True)
            self._offline('clearml-task --import-offline-session FILE uploads it')
        options: dict[str, Any] = dict(
            project_name='mmvitscale', task_name=f'{self.work_dir.name}_{self.run_name}', reuse_last_task_id=False
        )
        for nothing in ('frameworks', 'arg_parser', 'streams'):  # what is to arrive is given to it
            options[f'auto_connect_{nothing}'] = False
        return Task.init(**{**options, 'auto_resource_monitoring': False, **self.options})

    def _config(self, run: Any, text: str, values: dict[str, Any]) -> None:
        run.connect_configuration({key: as_json(value) for key, value in values.items()}, name='values')
        run.set_configuration_object('config', config_text=text)

    def _image(self, run: Any, name: str, image: np.ndarray, step: int) -> None:
        run.get_logger().report_image(title=name, series=name, iteration=step, image=image)

    def _scalars(self, run: Any, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            run.get_logger().report_scalar(title=name, series=name, value=value, iteration=step)

    def _close(self, run: Any) -> None:
        run.close()


@VISBACKENDS.register_module()
class AimVisBackend(TrackingBackend):
    """Aim, in ``.aim`` of the work dir: ``aim up --repo <work dir>``."""

    name, package = 'Aim', 'aim'

    def _open(self) -> Any:
        from aim import Run

        self.work_dir.mkdir(parents=True, exist_ok=True)
        options = dict(repo=str(self.work_dir), experiment=self.work_dir.name, system_tracking_interval=None)
        return Run(**{**options, 'log_system_params': False, 'capture_terminal_logs': False, **self.options})

    def _config(self, run: Any, text: str, values: dict[str, Any]) -> None:
        run['config'] = text
        run['hparams'] = {key: as_json(value) for key, value in values.items()}

    def _image(self, run: Any, name: str, image: np.ndarray, step: int) -> None:
        from aim import Image

        run.track(Image(image), name=name, step=step)

    def _scalars(self, run: Any, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            run.track(value, name=name, step=step)

    def _close(self, run: Any) -> None:
        run.close()


@VISBACKENDS.register_module()
class DVCLiveVisBackend(TrackingBackend):
    """DVCLive, in ``dvclive`` of the work dir; no DVC repository, commit or experiment is made."""

    name, package = 'DVCLive', 'dvclive'

    def _open(self) -> Any:
        from dvclive import Live

        options = dict(dir=str(self.work_dir / 'dvclive'), save_dvc_exp=False, dvcyaml=None, report=None)
        return Live(**{**options, **self.options})

    def _config(self, run: Any, text: str, values: dict[str, Any]) -> None:
        run.log_params({key: as_json(value) for key, value in values.items()})
        Path(run.dir, 'config.py').write_text(text)

    def _image(self, run: Any, name: str, image: np.ndarray, step: int) -> None:
        run.step = step
        run.log_image(f'{name}.png', image)

    def _scalars(self, run: Any, values: dict[str, float], step: int) -> None:
        run.step = step
        for name, value in values.items():
            run.log_metric(name, value)
        run.make_summary()

    def _close(self, run: Any) -> None:
        run.end()


@VISBACKENDS.register_module()
class NeptuneVisBackend(TrackingBackend):
    """Neptune; without NEPTUNE_API_TOKEN and NEPTUNE_PROJECT offline, in ``.neptune`` of the folder that it is started in."""

    name, package = 'Neptune', 'neptune'

    def _open(self) -> Any:
        import neptune

        options: dict[str, Any] = dict(name=f'{self.work_dir.name}_{self.run_name}', source_files=[], git_ref=False)
        for nothing in ('stdout', 'stderr', 'hardware_metrics'):
            options[f'capture_{nothing}'] = False
        if not (os.environ.get('NEPTUNE_API_TOKEN') and os.environ.get('NEPTUNE_PROJECT')):
            options['mode'] = 'offline'
            self._offline('neptune sync --offline-only uploads it')
        return neptune.init_run(**{**options, **self.options})

    def _config(self, run: Any, text: str, values: dict[str, Any]) -> None:
        from neptune.types import File

        run['config'].upload(File.from_content(text, extension='py'))
        run['parameters'] = {key: str(value) for key, value in values.items()}

    def _image(self, run: Any, name: str, image: np.ndarray, step: int) -> None:
        from neptune.types import File

        run[name].append(File.as_image(image.astype(np.float32) / 255), step=step)

    def _scalars(self, run: Any, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            if math.isfinite(value):  # it takes no other
                run[name].append(value, step=step)

    def _close(self, run: Any) -> None:
        run.stop(seconds=_SECONDS)


def as_json(value: Any) -> Any:
    """A value as it is where JSON has it, else as text."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return str(value)
