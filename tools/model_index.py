"""Write the tables of the configs' READMEs, metafile.yml and model-index.yml again, after a config has changed."""

import argparse

from mmvitscale.cli import run_command
from mmvitscale.config.model_index import files


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    for path, content in files().items():
        if not path.is_file() or path.read_text() != content:
            path.write_text(content)
            print(f'written: {path}')


if __name__ == '__main__':
    run_command(main)
