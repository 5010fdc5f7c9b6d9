"""Two processes with a share of the rows each give the answer of one."""

import pytest
import torch
import torch.distributed
from torch import multiprocessing

from fewshot.discovery.mixture.fit import fit_mixture
from fewshot.discovery.mixture.forms import FORMS
from fewshot.discovery.mixture.start import state_from_means
from fewshot.discovery.mixture.state import MixtureState
from fewshot.discovery.space import principal_space, project, whiten_within
from fewshot.discovery.split_merge.evidence_power import find_power, two_covariance
from fewshot.discovery.split_merge.search import discover_components
from fewshot.distributed import all_sum

CASES = [(form, is_hard) for form in FORMS for is_hard in (False, True)]
# The second process has no labelled row of class 1.
SHARES = (slice(0, 41), slice(41, 60))


def fitted(features, labels, means, form, is_hard):
    options = {"form": form, "covariance_floor": 1e-3}
    start = state_from_means(features, labels, means, **options)
    return fit_mixture(features, labels, start, is_hard=is_hard, n_steps=6, tolerance=0, **options)


def fitted_with_a_gap(features, labels, means):
    """The first row alone names component 5; no row is near component 4, which is kept for that label's sake."""
    labels = torch.where((features == pool()[0][0]).all(1), 5, labels)
    means = torch.cat([means, means[:1] + 1e3, features.new_zeros(1, 3)])
    return fit_mixture(
        features, labels, MixtureState(torch.zeros(6), means, torch.ones(6)), form="spherical", n_steps=3
    )


def pool():
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(60) % 4
    features = 3 * torch.eye(4, 3).double()[truth] + torch.randn((60, 3), generator=generator, dtype=torch.float64)
    is_shown = (truth < 2) & (torch.rand(60, generator=generator) < 0.5)
    is_shown[SHARES[1]] &= truth[SHARES[1]] != 1
    return features, torch.where(is_shown, truth, -1), features[:4]


def discovered(features, labels):
    """Space, power, components: all of category discovery, from the rows of one process."""
    space = principal_space(features, 3, normalize=False)
    projected = project(space, features, normalize=False)
    search = find_power(projected, labels, 2, generator=torch.Generator().manual_seed(0), guess=1.0)
    basis, variances = whiten_within(projected, labels, 2)
    found = discover_components(projected @ basis, labels, 2, two_covariance(variances, search.power))
    return [
        torch.tensor(search.curve),
        variances,
        found.component_ids,
        torch.tensor([[float(value) for value in done] for done in found.rounds]).double(),
        found.labels,
    ]


def work(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    features, labels, means = pool()
    found = [fitted(features[SHARES[rank]], labels[SHARES[rank]], means, *case) for case in CASES]
    everything = slice(0, 60) if rank == 0 else slice(0, 0)
    nothing = fitted(features[everything], labels[everything], means, "tied", False)
    gap = fitted_with_a_gap(features[SHARES[rank]], labels[SHARES[rank]], means)
    results = [[*result.state, result.labels, result.objective] for result in [*found, nothing, gap]]
    results.append(discovered(features[SHARES[rank]], labels[SHARES[rank]]))
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="needs torch with gloo"
)
def test_two_processes_give_the_answer_of_one(tmp_path):
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    features, labels, means = pool()
    alone = [fitted(features, labels, means, *case) for case in [*CASES, ("tied", False)]]
    alone.append(fitted_with_a_gap(features, labels, means))
    assert len(alone[-1].state.means) == 6
    ours, theirs, whole = first.pop(), second.pop(), discovered(features, labels)
    for mine, other, wanted in zip(ours[:-1], theirs[:-1], whole[:-1], strict=True):
        assert torch.equal(mine, other)
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-9)
    assert torch.equal(torch.cat([ours[-1], theirs[-1]]), whole[-1])
    assert int(whole[-1].max()) > 1
    for wanted, one, other in zip(alone, first, second, strict=True):
        for mine, theirs in zip(one[:3] + one[4:], other[:3] + other[4:], strict=True):
            assert torch.equal(mine, theirs)  # not a bit apart, or the processes would part ways
        for mine, whole in zip(one[:3] + one[4:], [*wanted.state, wanted.objective], strict=True):
            torch.testing.assert_close(mine, whole, rtol=1e-9, atol=1e-9)
        assert torch.equal(torch.cat([one[3], other[3]]), wanted.labels)


def test_alone_nothing_is_sent():
    tensors = torch.ones(2), torch.zeros(())
    assert all(mine is given for mine, given in zip(all_sum(*tensors), tensors, strict=True))
