"""Write the tables of the configs' READMEs, metafile.yml and model-index.yml again, after a config has changed."""

import argparse

from mmvitscale.cli import run_command
from mmvitscale.utils.atomic_write import write_bytes_atomically


def parse_args():
    return argparse.ArgumentParser(description=__doc__).parse_args()


def main(args):
    from mmvitscale.config.model_index import files

    for path, content in files().items():
        if not path.is_file() or path.read_text() != content:
            write_bytes_atomically(path, content.encode())
            print(f'written: {path}')


if __name__ == '__main__':
    run_command(parse_args, main)
