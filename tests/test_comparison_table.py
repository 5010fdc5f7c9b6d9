"""The tables of all methods are those of the stored results, and these are of the methods as they are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fewshot.registry.episodic import METHODS
from tests.benchmarks import comparison
from tests.benchmarks.comparison import COMMAND, PAGE, README, RESULTS, SETS, SHOTS, Job, Ledger, Regime
from tests.benchmarks.comparison_tables import summary_table
from tests.kits.records import make_record

STALE = f"stale: run {COMMAND}, which runs what is wanting and rewrites the tables"


def test_every_method_has_results_with_its_present_settings():
    for name in SETS:
        records = comparison.stored(name)
        left_out = comparison._left_out(name)
        for regime in comparison.REGIMES:
            for n_shot in SHOTS:
                missing = comparison.wanting(records, regime, n_shot, left_out)
                assert not missing, f"{name}, {regime}, {n_shot}-shot: {missing}: {STALE}"


@pytest.mark.parametrize("path", [README, PAGE], ids=lambda path: path.name)
def test_pages_show_the_stored_results(path):
    text = comparison.with_block(path, comparison.blocks()[path])
    assert path.read_text(encoding="utf-8") == text, f"{STALE}; with --only-tables it rewrites the tables alone"


def test_readme_says_where_the_default_stands():
    block = comparison.blocks()[PAGE]
    ties, mean = re.search(rf"^\| `{comparison.DEFAULT}` \| (\d+) of 36 \| ([\d.]+) \|", block, re.MULTILINE).groups()
    said = (
        f"`{comparison.DEFAULT}`, is best or tied in {ties} of the 36 cells behind this table and {mean} points behind"
    )
    assert said in README.read_text(encoding="utf-8")


def test_the_stored_results_hold_no_more_than_they_need():
    for name in SETS:
        for record in comparison.stored(name):
            assert record.episode_accuracy is None
            assert (record.n_episodes, record.n_leaked, record.method in METHODS) == (1000, 0, True)
            assert record.command_line.startswith(f"fewshot episode --features {name}.npz --classes ")
        assert (RESULTS / f"{name}.json").stat().st_size < 100_000


# --- the program that makes them -------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Make the program compare three fast methods on one small feature set."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 30)
    features = generator.normal(size=(8, 6))[labels] * 2 + generator.normal(size=(240, 6))
    np.savez(tmp_path / "birds.npz", features=features.astype(np.float32), labels=labels)
    named = ("nearest-prototype", "simpleshot", "bd-cspn")
    for name, value in {
        "METHODS": {method: METHODS[method] for method in named},
        "SETS": ("birds",),
        "SHOTS": (1, 2),
        "N_EPISODES": 12,
        "REGIMES": (Regime(3, "balanced", 3), Regime(4, "uniform", 2)),
        "QUERIES": {"birds": (4, 9)},
        "SLOW": ("bd-cspn",),
        "RESULTS": tmp_path / "results",
        "README": tmp_path / "README.md",
        "PAGE": tmp_path / "comparison.md",
        "DEFAULT": "simpleshot",
        "pools": lambda folder: {"birds": (None, None, [0, 1], [2, 3, 4, 5, 6, 7])},
    }.items():
        monkeypatch.setattr(comparison, name, value)
    for name in ("README.md", "comparison.md"):
        (tmp_path / name).write_text(f"before\n{comparison.BEGIN}\nformer\n{comparison.END}\nafter\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def ran(monkeypatch):
    """Record the commands that run."""
    jobs = []
    real = comparison.run
    monkeypatch.setattr(comparison, "run", lambda job, *rest: jobs.append(job) or real(job, *rest))
    return jobs


def page(folder: Path) -> str:
    return (folder / "comparison.md").read_text(encoding="utf-8")


def work(folder: Path, *methods):
    comparison.work_through(folder, folder / "work", methods or tuple(comparison.METHODS), ("birds",))


FAST = ("nearest-prototype", "simpleshot")


def test_fast_methods_run_together_and_slow_ones_alone(small, ran, capsys):
    work(small)
    first, second = comparison.REGIMES
    assert ran[:2] == [Job("birds", first, FAST, (1, 2)), Job("birds", second, FAST, (1, 2))]
    slow = [Job("birds", regime, ("bd-cspn",), (n_shot,)) for regime in (first, second) for n_shot in (1, 2)]
    assert ran[2:] == slow
    assert capsys.readouterr().err.count(" of 6: ") == 6
    records = comparison.stored("birds")
    assert len(records) == 3 * 2 * 2
    # Methods that ran apart are paired all the same.
    assert all(record.behind_best.is_paired for record in records)
    assert {record.command_line.split("--n-way")[0] for record in records} == {
        "fewshot episode --features birds.npz --classes 2-7 "
    }


def test_what_is_done_is_not_done_again(small, ran):
    work(small)
    before = (small / "results" / "birds.json").read_bytes()
    ran.clear()
    work(small)
    assert ran == []
    assert (small / "results" / "birds.json").read_bytes() == before


def test_an_interrupted_run_goes_on_where_it_was(small, ran, monkeypatch):
    def interrupted(job, *rest):
        if len(ran) == 1:
            raise KeyboardInterrupt
        return real(job, *rest)

    real = comparison.run
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            work(small)
    assert {record.n_way for record in comparison.stored("birds")} == {3}
    work(small)
    assert len(ran) == 6
    assert len(set(ran)) == 6


def test_changed_settings_and_new_methods_run_again(small, ran, monkeypatch):
    work(small)
    ran.clear()
    said = comparison.current_settings()
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "current_settings", lambda: said | {"simpleshot": "otherwise"})
        assert comparison.wanting(comparison.stored("birds"), comparison.REGIMES[0], 1) == ["simpleshot"]
        Ledger("birds", small / "work").write()
        assert {record.method for record in comparison.stored("birds")} == {"nearest-prototype", "bd-cspn"}
    monkeypatch.setattr(
        comparison, "METHODS", {name: METHODS[name] for name in ("nearest-prototype", "unem", "bd-cspn")}
    )
    work(small)
    assert {job.methods for job in ran} == {("unem",)}
    # What is no longer registered is dropped, and the rest stands in the order of the registry.
    assert list(dict.fromkeys(record.method for record in comparison.stored("birds"))) == list(comparison.METHODS)
    assert all(record.behind_best.is_paired for record in comparison.stored("birds"))


def test_a_method_that_does_not_apply_is_left_out_with_its_reason(small, ran, monkeypatch):
    def refusing(job, *rest):
        return "Error: needs text" if "simpleshot" in job.methods else real(job, *rest)

    real = comparison.run
    monkeypatch.setattr(comparison, "run", refusing)
    work(small)
    assert {record.method for record in comparison.stored("birds")} == {"nearest-prototype", "bd-cspn"}
    comparison.write_tables()
    assert "Left out: `simpleshot` on birds: Error: needs text\n" in page(small)
    ran.clear()
    work(small)
    assert ran == []


def test_what_is_postponed_is_told_and_done_later(small, ran):
    work(small, *FAST)
    comparison.postpone(small / "work", ("bd-cspn",), ("birds",), "an hour of computing")
    assert "Left out: `bd-cspn` on birds: an hour of computing\n" in comparison.blocks()[comparison.PAGE]
    ledger = Ledger("birds", small / "work")
    assert comparison.wanting(ledger.records, comparison.REGIMES[0], 1, ledger.left_out) == []
    ran.clear()
    work(small)
    assert {job.methods for job in ran} == {("bd-cspn",)}
    assert "Left out" not in comparison.blocks()[comparison.PAGE]


def test_an_error_of_the_command_is_a_reason(small):
    job = Job("birds", Regime(7, "balanced", 7), ("simpleshot",), (1,))
    said = comparison.run(job, "2-7", small)
    assert said == "Error: --n-way = 7 exceeds the 6 classes of the pool"


def test_pages_are_rewritten_between_their_marks(small):
    work(small)
    comparison.write_tables()
    for path, block in comparison.blocks().items():
        text = path.read_text(encoding="utf-8")
        assert text == f"before\n{comparison.BEGIN}\n{block}{comparison.END}\nafter\n"
        assert text == comparison.with_block(path, block)
    text = page(small)
    assert f"\n{comparison.BEGIN}\n| method | best or tied |" in text
    assert "## 3-way, balanced queries\n" in text
    assert "## 4-way, uniform queries of 2 of the ways\n" in text
    records = comparison.stored("birds")
    for method in comparison.METHODS:
        ties = sum(record.behind_best.is_tie for record in records if record.method == method)
        assert f"| `{method}` | {ties} of 4 |" in text
    behind = sum(not record.behind_best.is_tie for record in records if record.method == "simpleshot")
    words = "cannot be told from the best" if not behind else f"by more than the interval in {behind} of 4"
    assert words in text


def test_readmes_table_is_the_mean_over_the_feature_sets():
    def row(features, n_shot, accuracy, half_width):
        return make_record(features, "unem", n_shot, accuracy, half_width=half_width)

    rows = [row("a", 1, 0.5, 0.03), row("b", 1, 0.7, 0.04), row("a", 5, 0.8, 0.01), row("b", 5, 0.9, 0.0)]
    # Of independent means: sqrt(3² + 4²) / 2 = 2.5 and 1 / 2.
    assert summary_table(rows, (1, 5)).splitlines()[-1] == "| `unem` | 60.0 ± 2.5 | 85.0 ± 0.5 |"


def test_a_page_without_marks_is_refused(small):
    (small / "README.md").write_text("no marks")
    with pytest.raises(ValueError, match=r"^README\.md needs one line <!-- comparison:begin --> and one "):
        comparison.with_block(small / "README.md", "")


def test_classes_are_written_as_ranges():
    assert comparison.class_words([3, 1, 2, 7]) == "1-3,7"
    assert comparison.class_words([5]) == "5"
