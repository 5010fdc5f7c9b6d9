"""Torchvision is imported as it is, mended, missed or reported: each in a process, since a mistake aborts one."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

needs_torchvision = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")

RECORD = """
import json, sys, warnings
import torch
from fewshot.features.backbones.torchvision_gate import ensure_torchvision, require_torchvision
def call(f, *args):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            said = f(*args)
        except ImportError as error:
            said = f"ImportError: {error}"
    return [said, sum("native" in str(w.message) for w in caught)]
"""
COMMAND = f"`pip install torchvision torch=={torch.__version__}`"


def run(code, path=None):
    before = f"import sys\nsys.path.insert(0, {str(path)!r})\n" if path else ""
    result = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, (result.returncode, result.stderr[-2000:])
    return json.loads(result.stdout.splitlines()[-1])


@needs_torchvision
@needs_timm
def test_the_pair_at_hand_works_and_says_how():
    bare = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    expected = "native" if bare.returncode == 0 else "schema-only"
    assert bare.returncode == 0 or "operator torchvision::nms does not exist" in bare.stderr
    said = run(
        RECORD
        + """
first, second, third = call(ensure_torchvision), call(ensure_torchvision), call(require_torchvision, "a test")
import timm
from torchvision.models import get_model
from torchvision.transforms import v2
resized = v2.functional.resize(torch.full((3, 20, 30), 7, dtype=torch.uint8), [10, 15], antialias=True)
with torch.no_grad():
    logits = get_model("mobilenet_v3_small", weights=None).eval()(torch.zeros(1, 3, 32, 32))
print(json.dumps([first, second, third, list(resized.shape), resized.unique().tolist(), list(logits.shape),
                  timm.create_model("test_vit") is not None]))
"""
    )
    assert said[0] == [expected, 0]
    assert said[1:3] == [["already", 0], ["already", 0]]
    assert said[3:] == [[3, 10, 15], [7], [1, 1000], True]


FAILURES = {
    "RuntimeError('built\\nfor another torch')": "RuntimeError: built for another torch",
    "ModuleNotFoundError('No module named numpy', name='numpy')": "ModuleNotFoundError: No module named numpy",
    "OSError('libcudart')": "OSError: libcudart",
}


def test_absent_broken_healthy_and_imported_before_are_told_apart(tmp_path):
    said = run(
        RECORD
        + f"""
import importlib, pathlib
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
blocker = Blocker()
sys.meta_path.insert(0, blocker)
said = [call(ensure_torchvision), call(ensure_torchvision), call(require_torchvision, "timm")]
sys.meta_path.remove(blocker)
fake = pathlib.Path({str(tmp_path)!r}) / "torchvision"
def is_now(text):
    folder = fake.with_name(f"path{{len(said)}}")
    folder.mkdir()
    (folder / "torchvision.py").write_text(text)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
for raised in {list(FAILURES)!r}:
    is_now(f"raise {{raised}}")
    said.append(call(ensure_torchvision))
is_now("")
said += [call(ensure_torchvision), call(ensure_torchvision), hasattr(torch.ops.torchvision, "nms")]
print(json.dumps(said))
"""
    )
    broken = (
        f"ImportError: torchvision does not import beside torch {torch.__version__} ({{}}): "
        f"install the pair that belongs together with {COMMAND}"
    )
    assert said == [
        ["absent", 0],
        ["absent", 0],
        [f"ImportError: timm needs torchvision: install it with {COMMAND}", 0],
        *([broken.format(reason), 0] for reason in FAILURES.values()),
        ["native", 0],
        ["already", 0],
        False,
    ]


def test_a_half_imported_package_is_forgotten_before_the_second_import(tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(
        """
from torchvision import extension
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
"""
    )
    (package / "extension.py").write_text("import builtins\nbuiltins.n_runs = getattr(builtins, 'n_runs', 0) + 1")
    code = "import builtins\nprint(json.dumps([call(ensure_torchvision), builtins.n_runs]))"
    assert run(RECORD + code, tmp_path) == [["schema-only", 0], 2]


@needs_torchvision
def test_who_calls_an_operator_that_is_not_there_is_told():
    code = """
status = ensure_torchvision()
from torchvision.ops import nms
try:
    nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    said = ""
except RuntimeError as error:
    said = str(error)
print(json.dumps([status, said]))
"""
    status, said = run(RECORD + code)
    assert (status == "native") == (said == "")
    assert status == "native" or "ops" in said
