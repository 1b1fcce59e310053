# SPDX-License-Identifier: Apache-2.0
"""A scenario is a file with `def scenario(lab)` and, where it wants other than the defaults, HOSTS (a number or
HostSpecs), LUNS and SOAK = True."""
import importlib.util
from pathlib import Path
from .cache import LabError
from .lab import Lab, Lun

FOLDER = Path(__file__).resolve().parent.parent / 'scenarios'


def load(name):
    """A scenario by its name in scenarios/ or by its path."""
    path = FOLDER / f'{name}.py'
    if not path.exists():
        path = Path(name)
    if not path.is_file():
        raise LabError(f'{name}: no such scenario; there are {", ".join(sorted(p.stem for p in FOLDER.glob("*.py")))}')
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name):
    module = load(name)
    with Lab(Path(name).stem, hosts=getattr(module, 'HOSTS', 2), luns=getattr(module, 'LUNS', [Lun()])) as lab:
        module.scenario(lab)
