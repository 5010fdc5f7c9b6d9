"""Torchvision is imported as it is, mended, missed or reported; in processes of their own, since a mistake aborts one."""

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
from fewshot.features.backbones.torchvision_gate import TorchvisionWarning, ensure_torchvision, require_torchvision
def call(f, *args):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            said = f(*args)
        except ImportError as error:
            said = f"ImportError: {error}"
    return [said, sum(w.category is TorchvisionWarning for w in caught)]
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
    assert said[0] == [expected, int(expected == "schema-only")]
    assert said[1:3] == [["already", 0], ["already", 0]]
    assert said[3:] == [[3, 10, 15], [7], [1, 1000], True]


@needs_torchvision
def test_what_was_imported_before_is_left_alone(tmp_path):
    (tmp_path / "torchvision.py").write_text("mark = 5")
    code = "import torchvision\nprint(json.dumps([call(ensure_torchvision), torchvision.mark]))"
    assert run(RECORD + code, tmp_path) == [["already", 0], 5]


def test_absent_is_said_and_requiring_it_is_an_error_with_the_command():
    said = run(
        RECORD
        + """
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
print(json.dumps([call(ensure_torchvision), call(ensure_torchvision), call(require_torchvision, "timm")]))
"""
    )
    required = f"ImportError: timm needs torchvision: install it with {COMMAND}"
    assert said == [["absent", 0], ["absent", 0], [required, 0]]


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        ("RuntimeError('built\\nfor another torch')", "RuntimeError: built for another torch"),
        ("ModuleNotFoundError('No module named numpy', name='numpy')", "ModuleNotFoundError: No module named numpy"),
        ("OSError('libcudart')", "OSError: libcudart"),
    ],
)
def test_any_other_failure_is_one_line_with_the_mend(tmp_path, raised, reason):
    (tmp_path / "torchvision.py").write_text(f"raise {raised}")
    said = run(RECORD + "print(json.dumps(call(ensure_torchvision)))", tmp_path)
    assert said == [
        f"ImportError: torchvision does not import beside torch {torch.__version__} ({reason}): "
        f"install the pair that belongs together with {COMMAND}",
        0,
    ]


def test_a_healthy_package_is_native_and_gets_no_schema(tmp_path):
    (tmp_path / "torchvision.py").write_text("")
    code = "print(json.dumps([call(ensure_torchvision), hasattr(torch.ops.torchvision, 'nms')]))"
    assert run(RECORD + code, tmp_path) == [["native", 0], False]


def test_a_half_imported_package_is_forgotten_before_the_second_import(tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("from torchvision import extension\nimport torch\ntorch.ops.torchvision.nms")
    (package / "extension.py").write_text("import builtins\nbuiltins.n_runs = getattr(builtins, 'n_runs', 0) + 1")
    source = (package / "__init__.py").read_text()
    mended = f"try:\n    {source.splitlines()[2]}\nexcept AttributeError:\n"
    mended += "    raise RuntimeError('operator torchvision::nms does not exist') from None\n"
    (package / "__init__.py").write_text("\n".join(source.splitlines()[:2]) + "\n" + mended)
    code = "import builtins\nprint(json.dumps([call(ensure_torchvision), builtins.n_runs]))"
    assert run(RECORD + code, tmp_path) == [["schema-only", 1], 2]
