"""α-TIM (Veilleux et al., NeurIPS 2021) as plain loops: TIM's with Tsallis entropies in place of Shannon's."""

from __future__ import annotations

from tests.reference import tim_loops


def tsallis(alpha):
    """p -> H_alpha(p) = ( 1 - sum_k p_k^alpha ) / ( alpha - 1 )."""

    def entropy(p):
        return (1 - sum(value**alpha for value in p)) / (alpha - 1)

    return entropy


def alpha_tim(support, support_labels, query, n_way, *, alpha, weights=(1.0, 1.0, 1.0), **settings):
    """Return p of the queries; the cross-entropy of the support stays Shannon's."""
    return tim_loops.tim_gd(support, support_labels, query, n_way, weights=weights, entropy=tsallis(alpha), **settings)


def alpha_by_shot(support_labels, n_way):
    """The authors' alpha: 2 at one shot, 7 from five on, otherwise 5; unequal shots by their mean."""
    shots = len(support_labels) / n_way
    if shots < 2:
        return 2.0
    return 7.0 if shots >= 5 else 5.0
