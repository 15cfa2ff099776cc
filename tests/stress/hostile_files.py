"""Files made to do harm, given to the tools by every way in: none runs code, none takes more than its share of the memory, and
each is refused with one sentence.

    python -m tests.stress.hostile_files     a table: the file and its way in, exit status, largest memory, what is said

Each is opened in a process of its own with 4 GB, forked from this one, which has imported everything.
"""

import argparse
import io
import json
import os
import pickle
import re
import resource
import runpy
import shutil
import struct
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # no thread may run when this process forks

import numpy as np  # noqa: E402
import torch  # noqa: E402

from mmvitscale.config.loading import load_config  # noqa: E402
from mmvitscale.datasets.mini import write_dataset  # noqa: E402
from tests.helpers.commands import ROOT  # noqa: E402
from tests.helpers.hostile import Attack  # noqa: E402

LIMIT = 4 << 30
SEG = 'swinv2_upernet_mini'
SIZES = [
    "model.backbone.arch={'embed_dims':8,'depths':[1,1,1,1],'num_heads':[1,1,1,1]}",
    'model.decode_head.in_channels=[8,16,32,64]',
    'model.auxiliary_head.in_channels=32',
]


class Maker:
    """Makes the files in a folder. marker: exists if code has run. good: the content of a checkpoint of the config."""

    def __init__(self, folder: Path, good: dict):
        self.folder, self.good = folder, good
        self.marker = folder / 'ran'
        self.data = folder / 'data/ADEChallengeData2016'
        self.coco = folder / 'data/coco'

    @property
    def attack(self):
        return Attack(self.marker)

    def path(self, name):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def saved(self, content, name='evil.pth', **options):
        torch.save(content, self.path(name), **options)
        return self.path(name)

    def written(self, name, content):
        self.path(name).write_bytes(content)
        return self.path(name)

    def with_attack(self, *keys):
        """The good checkpoint with the attack at a place in it."""
        content = dict(self.good)
        inner = content
        for key in keys[:-1]:
            inner[key] = dict(inner[key])
            inner = inner[key]
        inner[keys[-1]] = self.attack
        return self.saved(content)

    def archive(self, name, numbers, compression, size):
        """A checkpoint that is an archive of a tensor of so many numbers, whose content has ``size`` bytes, all zero."""
        buffer = io.BytesIO()
        torch.save(dict(state_dict=dict(a=torch.ones(1000))), buffer)
        source = zipfile.ZipFile(buffer)
        with zipfile.ZipFile(self.path(name), 'w', compression) as archive:
            for entry in source.infolist():
                content = source.read(entry)
                if entry.filename.endswith('data.pkl'):
                    content = content.replace(b'M\xe8\x03', b'J' + struct.pack('<i', numbers))
                if not entry.filename.endswith('data/0'):
                    archive.writestr(entry.filename, content)
                    continue
                with archive.open(entry.filename, 'w', force_zip64=True) as file:
                    for _ in range(size >> 20):
                        file.write(bytes(1 << 20))
        return self.path(name)

    def test(self, checkpoint, *more):
        return ['tools/test.py', SEG, checkpoint, *self.tail(*more)]

    def train(self, *more, arguments=()):
        return ['tools/train.py', SEG, *arguments, *self.tail('train_dataloader.batch_size=2', 'train_cfg.max_iters=3', *more)]

    def tail(self, *more):
        quick = [
            f'{split}_dataloader.{option}'
            for split in ('train', 'val', 'test')
            for option in ('num_workers=0', 'persistent_workers=False')
        ]
        return ['--work-dir', self.folder / 'out', '--cfg-options', f'data_root={self.data}', *SIZES, *quick, *more]

    def predict(self, image):
        return [
            'tools/predict.py',
            SEG,
            self.saved(self.good, 'good.pth'),
            image,
            '--out',
            self.folder / 'out',
            '--cfg-options',
            *SIZES,
        ]


def png(width, height, colours=2):
    def chunk(kind, content):
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    header = struct.pack('>IIBBBBB', width, height, 8, colours, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(bytes(9999))) + chunk(b'IEND', b'')


def tiff(width, height):
    """A head that promises that many pixels of 8 bits, uncompressed, in one strip."""
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 200),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, 64),
    ]
    entries = b''.join(struct.pack('<HHII', tag, kind, 1, value) for tag, kind, value in tags)
    return b'II*\0' + struct.pack('<I', 8) + struct.pack('<H', len(tags)) + entries + struct.pack('<I', 0) + bytes(200)


def laughs():
    """Lists of lists of lists: small in a file and in the memory, endless for who walks through it."""
    level = ['ha']
    for _ in range(60):
        level = [level] * 8
    return level


def legacy(maker):
    path = maker.saved(dict(state_dict=dict(a=torch.ones(1000))), 'legacy.pth', _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b'M\xe8\x03', b'J' + struct.pack('<i', 2 * 10**9)))
    return path


def deepspeed(maker):
    maker.saved(dict(module=maker.attack, param_shapes=[]), 'pieces/mp_rank_00_model_states.pt')
    return maker.folder / 'pieces'


def distributed(maker):
    maker.written('dcp/.metadata', pickle.dumps(maker.attack))
    return maker.folder / 'dcp'


def resumable(maker, **changes):
    return dict(
        maker.good,
        optimizer=dict(state={}, param_groups=[]),
        message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}),
        **changes,
    )


def work_dir(maker):
    maker.saved(resumable(maker, extra=maker.attack), 'out/iter_1.pth')
    return maker.train(arguments=['--resume'])


def nested_json(maker):
    (maker.coco / 'annotations/instances_train2017.json').write_text('[' * 10**6)
    return [
        'tools/train.py',
        'swinv2_retinanet_mini',
        '--work-dir',
        maker.folder / 'out',
        '--cfg-options',
        f'data_root={maker.coco}/',
    ]


def train_image(maker):
    for path in (maker.data / 'images/training').iterdir():
        path.write_bytes(png(100000, 100000))
    return maker.train()


def multispectral(maker, image):
    stem = {'backbone.patch_embed.proj.weight': torch.zeros(8, 4, 4, 4)}
    state = {**maker.good['state_dict'], **stem}
    return [
        'tools/predict.py',
        'swinv2_upernet_mini_rgbd',
        maker.saved(dict(maker.good, state_dict=state), 'good.pth'),
        image,
        '--out',
        maker.folder / 'out',
        '--cfg-options',
        *SIZES,
    ]


FILES = {
    'attack as state dict, tested': lambda m: m.test(m.with_attack('state_dict')),
    'attack among weights, tested': lambda m: m.test(m.with_attack('state_dict', 'decode_head.conv_seg.bias')),
    'attack in meta, tested': lambda m: m.test(m.with_attack('meta', 'cfg')),
    'attack in meta, predicted': lambda m: [
        'tools/predict.py',
        SEG,
        m.with_attack('meta', 'x'),
        m.data,
        '--out',
        m.folder / 'o',
    ],
    'attack in meta, exported': lambda m: [
        'tools/export.py',
        SEG,
        m.with_attack('meta', 'x'),
        '--out',
        m.folder / 'o',
        '--image-size',
        '64x64',
        '--cfg-options',
        *SIZES,
    ],
    'attack in meta, converted': lambda m: ['tools/convert_checkpoint.py', m.with_attack('meta', 'x')],
    'attack as averages, resumed': lambda m: m.train(arguments=['--resume', m.saved(resumable(m, ema_state_dict=m.attack))]),
    'attack as optimizer, resumed': lambda m: m.train(arguments=['--resume', m.saved({**resumable(m), 'optimizer': m.attack})]),
    'attack as history, resumed': lambda m: m.train(arguments=['--resume', m.saved({**resumable(m), 'message_hub': m.attack})]),
    'program as config in meta, resumed': lambda m: m.train(
        arguments=[
            '--resume',
            m.saved({**resumable(m), 'meta': dict(epoch=0, iter=1, config=f"import os\nos.mkdir('{m.marker}')")}),
        ]
    ),
    'attack in the newest of a work folder, resumed': work_dir,
    'attack, load_from': lambda m: m.train(f'load_from={m.with_attack("meta", "x")}'),
    'attack, init_cfg of the backbone': lambda m: m.train(
        f"model.backbone.init_cfg={{'type':'Pretrained','checkpoint':'{m.with_attack('meta', 'x')}'}}"
    ),
    'attack, init_cfg of a head': lambda m: m.train(
        f"model.decode_head.init_cfg={{'type':'Pretrained','checkpoint':'{m.with_attack('meta', 'x')}'}}"
    ),
    'attack, init_cfg of the model': lambda m: m.train(
        f"model.init_cfg={{'type':'Pretrained','checkpoint':'{m.with_attack('meta', 'x')}'}}"
    ),
    'attack in the old format, tested': lambda m: m.test(
        m.saved(dict(state_dict=m.attack), 'a.pth', _use_new_zipfile_serialization=False)
    ),
    'attack as bare pickle, tested': lambda m: m.test(m.written('a.pth', pickle.dumps(m.attack))),
    'attack as batch, replayed': lambda m: ['tools/analysis/replay.py', SEG, m.with_attack('batch')],
    'foreign type as batch, replayed': lambda m: [
        'tools/analysis/replay.py',
        SEG,
        m.saved(dict(m.good, batch={'__type__': 'os:mkdir', 'metainfo': str(m.marker), 'data': {}})),
    ],
    'attack in a piece of DeepSpeed, converted': lambda m: ['tools/convert_checkpoint.py', deepspeed(m)],
    'attack as metadata of pieces, converted': lambda m: ['tools/convert_checkpoint.py', distributed(m)],
    'attack as annotations, trained': lambda m: m.train(
        "train_dataloader.dataset={'_delete_':True,'type':'mmdet.BaseDetDataset','data_root':'/',"
        f"'ann_file':'{m.written('a.pkl', pickle.dumps(m.attack))}','pipeline':[]}}"
    ),
    'attack as array of objects, predicted': lambda m: multispectral(m, m.written('a.npy', _objects(m.attack))),
    'archive of 6 GB in 6 MB, tested': lambda m: m.test(m.archive('a.pth', 1610612736, zipfile.ZIP_DEFLATED, 6 << 30)),
    'number expanded to 10^12, tested': lambda m: m.test(
        m.saved(
            dict(m.good, state_dict=dict(m.good['state_dict'], **{'decode_head.conv_seg.bias': torch.ones(1).expand(10**12)}))
        )
    ),
    'tensor larger than its file, tested': lambda m: m.test(m.archive('a.pth', 2 * 10**9, zipfile.ZIP_STORED, 1 << 20)),
    'tensor larger than its file, old format, tested': lambda m: m.test(legacy(m)),
    'lists of lists without end, tested': lambda m: m.test(m.saved(dict(state_dict=dict(a='x'), meta=laughs()))),
    'safetensors whose head has 2^60 bytes, tested': lambda m: m.test(
        m.written('a.safetensors', struct.pack('<Q', 2**60) + b'{}')
    ),
    'safetensors of 10^15 numbers, tested': lambda m: m.test(m.written('a.safetensors', _safetensors(10**15))),
    'image of 100000 x 100000, predicted': lambda m: m.predict(m.written('a.png', png(100000, 100000))),
    'image of 32000 x 32000, predicted': lambda m: m.predict(m.written('a.png', png(32000, 32000))),
    'images of 100000 x 100000, trained': train_image,
    'TIFF of 200000 x 200000, predicted': lambda m: m.predict(m.written('a.tif', tiff(200000, 200000))),
    'TIFF of channels, 200000 x 200000, predicted': lambda m: multispectral(m, m.written('a.tif', tiff(200000, 200000))),
    'array of 10^12 numbers, predicted': lambda m: multispectral(m, m.written('a.npy', _array(10**6, 10**6))),
    'JSON nested without end, trained': nested_json,
}


def _objects(attack):
    buffer = io.BytesIO()
    np.save(buffer, np.array([attack], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _array(height, width):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, dict(descr='<f4', fortran_order=False, shape=(height, width)))
    return buffer.getvalue() + bytes(64)


def _safetensors(numbers):
    head = json.dumps({'a': dict(dtype='F32', shape=[numbers], data_offsets=[0, 4 * numbers])}).encode()
    return struct.pack('<Q', len(head)) + head + bytes(16)


def run(command, log):
    """A command in a process of its own with a limit -> its exit status (negative: the signal that ended it)."""
    pid = os.fork()
    if not pid:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
        os.chdir(ROOT)
        sys.argv = list(map(str, command))
        try:
            runpy.run_path(sys.argv[0], run_name='__main__')
        except SystemExit as stop:
            os._exit(int(stop.code or 0))
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(99)
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024


def main():
    import mmdet.datasets  # noqa: F401  before the first fork
    import mmseg.datasets  # noqa: F401
    import mmseg.models
    from mmengine.registry import MODELS, init_default_scope

    from mmvitscale.cli import ConfigOptions

    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--every', type=int, default=1, metavar='N', help='each N-th file only')
    parser.add_argument('-v', action='store_true', help='show what else was printed, where it is not one sentence')
    args = parser.parse_args()
    sizes = argparse.ArgumentParser()
    sizes.add_argument('--options', nargs='+', action=ConfigOptions)
    cfg = load_config(SEG, sizes.parse_args(['--options', *SIZES]).options)
    init_default_scope('mmseg')
    assert mmseg.models
    good = dict(state_dict=MODELS.build(cfg.model).state_dict(), meta=dict(epoch=0, iter=1))
    ran = tracebacks = accepted = 0
    print('| file, way in | exit | MB | what is said |\n| --- | --- | --- | --- |')
    chosen = list(FILES.items())[:: args.every]
    for name, make in chosen:
        folder = Path(tempfile.mkdtemp())
        write_dataset(folder / 'data', 3, 1, size=64)
        maker = Maker(folder, good)
        command = make(maker)
        code, memory = run(command, folder / 'log')
        log = (folder / 'log').read_text(errors='replace')
        logged = re.findall(r'^error: (.*)$', log, re.M)
        ran += maker.marker.exists()
        tracebacks += 'Traceback' in log or code not in (0, 1)
        accepted += code == 0
        print(f'| {name} | {code} | {memory:.0f} | {" ".join(logged)[:230].replace(str(folder), "D")} |', flush=True)
        if args.v and (code != 1 or len(logged) != 1):
            print(log[-3000:])
        shutil.rmtree(folder)
    print(f'{len(chosen)} files: {ran} ran code, {tracebacks} tracebacks or crashes, {accepted} accepted')
    return 1 if ran or tracebacks else 0


if __name__ == '__main__':
    sys.exit(main())
