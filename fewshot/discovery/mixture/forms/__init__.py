r"""Forms of covariance: each a class with its densities, its second moment and its step to the joint mode.

=========  ===========================================  ====================  =================================
form       ``covariances``                              Σ_k                   products per row and component
=========  ===========================================  ====================  =================================
spherical  (k,)                                         σ_k² I                D
diagonal   (k, d)                                       diag(σ_k²)            2 D
tied       (d, d)                                       Σ                     D, after one whitening of the row
full       (k, d, d)                                    Σ_k                   D²
low-rank   (k, d, r + 1): the columns of W_k, then ψ_k  W_k W_kᵀ + diag(ψ_k)  (r + 2) D
=========  ===========================================  ====================  =================================

Source: Murphy, "Machine Learning: A Probabilistic Perspective", 2012, §4.2, §11.4.2 and §12.1 (Woodbury for the
low-rank form); Ghahramani and Hinton, "The EM algorithm for mixtures of factor analyzers", 1996.
"""

from fewshot.discovery.mixture.forms.base import CovarianceForm, Densities, Moments
from fewshot.discovery.mixture.forms.diagonal import Diagonal
from fewshot.discovery.mixture.forms.full import Full
from fewshot.discovery.mixture.forms.low_rank import LowRank
from fewshot.discovery.mixture.forms.spherical import Spherical
from fewshot.discovery.mixture.forms.tied import Tied

__all__ = ["FORMS", "CovarianceForm", "Densities", "Moments"]

FORMS: dict[str, CovarianceForm] = {
    "spherical": Spherical(),
    "diagonal": Diagonal(),
    "tied": Tied(),
    "full": Full(),
    "low-rank": LowRank(),
}
