"""Generalized EM written as plain loops over one episode, in float64: what the fast code must equal.

Every function is transcribed from the equations of ``shared/reference/unem.md`` (sections in the comments) and imports
nothing of the library. An episode is ``support (n_s, d)``, ``support_labels (n_s,)`` in [0, n_way), ``query (n_q, d)``
and ``n_way``; there is no batch. Every class must have at least one support item.

``class_balance`` is always rho = lambda / |Q|, as in the authors' code (§1.3), and never lambda itself.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, gammaln, zeta

# ------------------------------------------------------------------------------------------------ shared small steps


def log_softmax(logits):
    """ln softmax of one vector, shifted by its maximum so that nothing overflows."""
    top = max(logits)
    log_total = top + math.log(sum(math.exp(value - top) for value in logits))
    return np.array([value - log_total for value in logits])


def one_hot(labels, n_way):
    """y_{n,k} of §1.1."""
    y = np.zeros((len(labels), n_way))
    for n, label in enumerate(labels):
        y[n, label] = 1.0
    return y


def class_means(support, support_labels, n_way):
    """theta_k at the start: the mean of each class's support (§1.5, Init)."""
    means = []
    for k in range(n_way):
        members = [z for z, label in zip(support, support_labels, strict=True) if label == k]
        if not members:
            raise ValueError(f"class {k} of {n_way} has no support item, so it has no prototype")
        means.append(sum(members) / len(members))
    return np.array(means, dtype=np.float64)


def class_proportions(u):
    """pi_k = 1/|Q| sum_{n in Q} u_{n,k}: queries only, support never enters (§1.1, §1.4)."""
    n_q, n_way = u.shape
    return np.array([sum(u[n, k] for n in range(n_q)) / n_q for k in range(n_way)])


def weighted_class_averages(support, support_labels, query, u):
    """( sum_Q u_{n,k} x_n + sum_S y_{n,k} x_n ) / ( sum_Q u_{n,k} + sum_S y_{n,k} ), weight 1 a support item (§1.5)."""
    n_way = u.shape[1]
    y = one_hot(support_labels, n_way)
    averages = []
    for k in range(n_way):
        total, weight = np.zeros(query.shape[1]), 0.0
        for n in range(len(query)):
            total, weight = total + u[n, k] * query[n], weight + u[n, k]
        for n in range(len(support)):
            total, weight = total + y[n, k] * support[n], weight + y[n, k]
        averages.append(total / weight)
    return np.array(averages)


def e_step(log_density, log_prior, class_balance, temperature):
    """u_n = softmax_k( ( ln p(z_n|theta_k) + (lambda/|Q|) ln pi_k ) / T ); T divides the prior too (§1.3, §7.1.6)."""
    u = np.zeros(log_density.shape)
    for n, row in enumerate(log_density):
        logits = [(log_p + class_balance * log_pi) / temperature for log_p, log_pi in zip(row, log_prior, strict=True)]
        u[n] = np.exp(log_softmax(logits))
    return u


def objective(log_density_support, support_labels, log_density_query, u, *, class_balance, temperature):
    """J(u, theta) = L + lambda Psi + T Phi of §1.2, given the log densities; lambda = class_balance * |Q|."""
    n_q, n_way = u.shape
    # L = - sum_Q sum_k u ln p - sum_S ln p(z | theta_y)   (§1.2)
    loss = -sum(u[n, k] * log_density_query[n, k] for n in range(n_q) for k in range(n_way))
    loss -= sum(log_density_support[n, label] for n, label in enumerate(support_labels))
    # Psi = - sum_k pi_k ln pi_k   (§1.2), 0 ln 0 = 0
    psi = -sum(p * math.log(p) for p in class_proportions(u) if p > 0)
    # Phi = sum_Q sum_k u ln u   (§1.2), 0 ln 0 = 0
    phi = sum(value * math.log(value) for value in u.ravel() if value > 0)
    return loss + class_balance * n_q * psi + temperature * phi


# -------------------------------------------------------------------------------------------------- inductive methods


def nearest_prototype(support, support_labels, query, n_way):
    """ln softmax_k( -1/2 ||z_n - mean_k||^2 ), shape (n_q, n_way) (§1.7 ProtoNet)."""
    log_density = gaussian_log_density(query, class_means(support, support_labels, n_way))
    return np.array([log_softmax(row) for row in log_density])


def simple_shot(support, support_labels, query, n_way, *, center=None):
    """Subtract ``center`` if given, L2-normalise each item (a zero vector stays zero), nearest prototype (§1.7)."""

    def cl2n(items):
        rows = []
        for z in items:
            shifted = z if center is None else z - center
            norm = math.sqrt(sum(value**2 for value in shifted))
            rows.append(shifted / norm if norm > 0 else shifted)
        return np.array(rows)

    return nearest_prototype(cl2n(support), support_labels, cl2n(query), n_way)


# --------------------------------------------------------------------------------------------- Gaussian, §1.5


def gaussian_log_density(items, means):
    """ln p(z | theta_k) = -1/2 ||z - theta_k||^2, without the constant -(d/2) ln 2 pi (§1.5)."""
    return np.array([[-0.5 * float(np.sum((z - mean) ** 2)) for mean in means] for z in items])


def gem_gaussian(support, support_labels, query, n_way, *, class_balance, temperature, scale, proportion_floor=1e-6):
    """Return [u_1, ..., u_L], each (n_q, n_way): layer l uses class_balance[l] and temperature[l] (§1.3-1.5)."""
    # Features are multiplied by s before everything (§1.5).
    support, query = scale * support, scale * query
    # Init: theta = class means of the support, a constant "ln pi" in layer 1 (§1.5).
    means = class_means(support, support_labels, n_way)
    log_prior = np.zeros(n_way)
    layers = []
    for rho, t in zip(class_balance, temperature, strict=True):
        # Order inside a layer: E-step, then pi, then theta (§1.5); ln(pi + eps) (§1.3).
        u = e_step(gaussian_log_density(query, means), log_prior, rho, t)
        log_prior = np.log(class_proportions(u) + proportion_floor)
        means = weighted_class_averages(support, support_labels, query, u)
        layers.append(u)
    return layers


def gaussian_objective(support, support_labels, query, u, means, *, class_balance, temperature, scale):
    """J(u, theta) of §1.2 with -ln p = 1/2 ||s z - theta_k||^2; ``means`` belong to the scaled features."""
    return objective(
        gaussian_log_density(scale * support, means),
        support_labels,
        gaussian_log_density(scale * query, means),
        u,
        class_balance=class_balance,
        temperature=temperature,
    )


def mixture_log_likelihood(support, support_labels, query, proportions, means, *, scale=1.0):
    """sum_Q ln sum_k pi_k p(z_n|theta_k) + sum_S ln p(z_n|theta_{y_n}), up to the constant of ln p (P13 of §7.2).

    This is what ordinary EM (class_balance 1, i.e. lambda = |Q|, and T = 1) never lowers. With lambda = |Q|,

        J(u, theta) = - [ sum_Q sum_k u ( ln pi_k + ln p(z_n|theta_k) - ln u ) + sum_S ln p(z_n|theta_y) ],

    because |Q| H(pi) = - sum_Q sum_k u ln pi_k at pi = mean u: -J is the lower bound of the sum above. A support term
    ln pi_y would be a different model: its M-step would have to count the support in pi, which §1.1 excludes, and
    under pi = mean_Q u that likelihood can fall. The floor in ln(pi + eps) breaks the property by the order of eps.
    """
    log_density_support = gaussian_log_density(scale * support, means)
    log_density_query = gaussian_log_density(scale * query, means)
    total = sum(log_density_support[n, label] for n, label in enumerate(support_labels))
    for row in log_density_query:
        terms = [math.log(pi) + log_p for pi, log_p in zip(proportions, row, strict=True) if pi > 0]
        top = max(terms)
        total += top + math.log(sum(math.exp(term - top) for term in terms))
    return total


def soft_kmeans(support, support_labels, query, n_way, *, n_iter, scale=1.0):
    """Soft k-means with clamped support: lambda = 0, T = 1 (§1.2, §1.7), on the features as given times ``scale``."""
    return gem_gaussian(
        support,
        support_labels,
        query,
        n_way,
        class_balance=[0.0] * n_iter,
        temperature=[1.0] * n_iter,
        scale=scale,
    )


def inverse_query_range(query):
    """scale_j = 1 / (max_j - min_j) over the query set, 1 where the range is 0 (§1.5, PADDLE's scaler)."""
    ranges = [max(query[:, j]) - min(query[:, j]) for j in range(query.shape[1])]
    return np.array([1.0 / r if r > 0 else 1.0 for r in ranges])


def paddle(support, support_labels, query, n_way, *, class_balance=1.0, n_iter):
    """PADDLE: min-max scaled features, then §1.5 with rho = alpha/|Q|, T = 1 (§1.7); the shift is inert (§1.5)."""
    feature_scale = inverse_query_range(query)
    return gem_gaussian(
        support * feature_scale,
        support_labels,
        query * feature_scale,
        n_way,
        class_balance=[class_balance] * n_iter,
        temperature=[1.0] * n_iter,
        scale=1.0,
    )


# -------------------------------------------------------------------------------------------- Dirichlet, §1.6


def simplex_features(cosines, softmax_scale, floor):
    """ln( softmax_k(tau * cos) + floor ), shape (n, n_way) (§1.6)."""
    return np.array([np.log(np.exp(log_softmax(softmax_scale * row)) + floor) for row in cosines])


def dirichlet_log_likelihood(log_z, alpha):
    """ln p(z_n|alpha_k) = lnGamma(sum_i a_i) - sum_i lnGamma(a_i) + sum_i (a_i - 1) ln z_i, shape (n, n_way) (§1.6)."""
    return np.array([[gammaln(sum(a)) - sum(gammaln(a)) + sum((a - 1.0) * row) for a in alpha] for row in log_z])


def dirichlet_statistics(log_z_support, support_labels, log_z_query, u):
    """ybar_k = ( sum_Q u ln z + sum_S y ln z ) / ( sum_Q u + sum_S y ), shape (n_way, d) (§1.6)."""
    return weighted_class_averages(log_z_support, support_labels, log_z_query, u)


def dirichlet_gain(ybar, alpha):
    """F(alpha) = lnGamma(sum a) - sum lnGamma(a_i) + sum (a_i - 1) ybar_i of one class: what the M-step maximises."""
    return float(gammaln(sum(alpha)) - sum(gammaln(alpha)) + sum((alpha - 1.0) * ybar))


def mm_curvature(a):
    """c(a) = 2 ( lnGamma(1) - lnGamma(a+1) + a psi(a+1) ) / a^2 (§1.6), as a power series where that cancels.

    lnGamma(1+a) = -gamma a + sum_{j>=2} zeta(j) (-a)^j / j gives
    c(a) = sum_{j>=2} 2 (j-1)/j zeta(j) (-a)^(j-2) = pi^2/6 - 4/3 zeta(3) a + ...   (§7.1.9).
    """
    if a < 0.1:
        return sum(2.0 * (j - 1) / j * zeta(j) * (-a) ** (j - 2) for j in range(2, 30))
    return 2.0 * (gammaln(1.0) - gammaln(a + 1.0) + a * digamma(a + 1.0)) / a**2


def dirichlet_mm_step(ybar, alpha):
    """One MM step on one class: the positive root of c x^2 + b x - 1 = 0 in every coordinate (§1.6, step 3)."""
    digamma_total = digamma(sum(alpha))
    new = []
    for a, y in zip(alpha, ybar, strict=True):
        c = mm_curvature(a)
        b = digamma(a + 1.0) - digamma_total - c * a - y
        root = math.sqrt(b * b + 4.0 * c)
        # ( -b + root ) / (2c); for b > 0 the same number written without the cancellation.
        new.append((root - b) / (2.0 * c) if b <= 0 else 2.0 / (b + root))
    return np.array(new)


def dirichlet_m_step_mm(ybar, alpha0, n_iter):
    """Return alpha after ``n_iter`` MM steps on one class's ``ybar (d,)`` from ``alpha0 (d,)`` (§1.6)."""
    alpha = np.array(alpha0, dtype=np.float64)
    for _ in range(n_iter):
        alpha = dirichlet_mm_step(ybar, alpha)
    return alpha


def inverse_digamma(value):
    """The a > 0 with psi(a) = value, by bracketing (psi is increasing)."""
    low = high = math.exp(value) + 0.5 if value > -2.0 else -1.0 / value
    while digamma(low) > value:
        low /= 2.0
    while digamma(high) < value:
        high *= 2.0
    if low == high:
        return low
    return brentq(lambda a: digamma(a) - value, low, high, xtol=1e-300, rtol=1e-15, maxiter=500)


def dirichlet_m_step_scipy(ybar):
    """Solve psi(a_i) - psi(sum a) = ybar_i for one class by root finding in s = sum a (§1.6, stationarity).

    For a given s the equations give a_i(s) = psi^-1( psi(s) + ybar_i ); the root of sum_i a_i(s) - s is the answer, and
    F is strictly concave, so there is only one. It is finite exactly when sum_i exp(ybar_i) < 1 (Jensen): a class whose
    items all coincide, such as one support item and no query mass, has none, and that is a ValueError. Close to that
    limit s is about (d-1) / (2 (1 - sum exp ybar)), as badly conditioned as that difference: refused below 1e-12.
    """
    ybar = np.asarray(ybar, dtype=np.float64)
    shortfall = 1.0 - sum(math.exp(y) for y in ybar)
    if shortfall < 1e-12:
        raise ValueError(f"the likelihood has no finite maximum: 1 - sum exp(ybar) = {shortfall:.3g}")

    def relative_excess(log_s):
        s = math.exp(log_s)
        return sum(inverse_digamma(digamma(s) + y) for y in ybar) / s - 1.0

    low = high = 0.0
    while relative_excess(low) < 0.0:
        low -= 1.0
    while relative_excess(high) > 0.0:
        high += 1.0
    log_s = low if low == high else brentq(relative_excess, low, high, xtol=1e-15, rtol=1e-15, maxiter=500)
    return np.array([inverse_digamma(digamma(math.exp(log_s)) + y) for y in ybar])


def harden(u):
    """One-hot argmax of each row; the first of equal values wins (§1.6, Hard-EM-Dirichlet)."""
    return one_hot([int(np.argmax(row)) for row in u], u.shape[1])


def gem_dirichlet(
    cosines_s,
    support_labels,
    cosines_q,
    n_way,
    *,
    class_balance,
    temperature,
    softmax_scale,
    proportion_floor=1e-15,
    simplex_floor=1e-15,
    hard=False,
    n_mm_steps=None,
):
    """Return [u_1, ..., u_L], each (n_q, n_way) (§1.6); the M-step is solved to convergence.

    With ``n_mm_steps`` it is that many MM steps instead, warm-started from the previous layer's alpha (ones at first).
    With ``hard`` the one-hot argmax of u_l enters the M-step and the proportions of layer l+1; the u_l handed back are
    the soft ones of the E-steps, and the first M-step sees the soft probabilities.
    """
    log_z_support = simplex_features(cosines_s, softmax_scale, simplex_floor)
    log_z_query = simplex_features(cosines_q, softmax_scale, simplex_floor)
    # Init: u = z, the CLIP probabilities: column k is class k (§1.6).
    u = np.array([np.exp(log_softmax(softmax_scale * row)) for row in cosines_q])
    if u.shape[1] != n_way:
        raise ValueError(f"the cosines have {u.shape[1]} columns, one for each of {n_way} classes is needed")
    # Init: alpha = all ones (§1.6); only the MM steps look at it.
    alpha = np.ones((n_way, n_way))
    layers = []
    for rho, t in zip(class_balance, temperature, strict=True):
        # Order inside a layer: alpha from u, pi from u, then the E-step (§1.6).
        ybar = dirichlet_statistics(log_z_support, support_labels, log_z_query, u)
        if n_mm_steps is None:
            alpha = np.array([dirichlet_m_step_scipy(row) for row in ybar])
        else:
            alpha = np.array([dirichlet_m_step_mm(row, a, n_mm_steps) for row, a in zip(ybar, alpha, strict=True)])
        log_prior = np.log(class_proportions(u) + proportion_floor)
        soft = e_step(dirichlet_log_likelihood(log_z_query, alpha), log_prior, rho, t)
        layers.append(soft)
        u = harden(soft) if hard else soft
    return layers


def dirichlet_objective(
    cosines_s,
    support_labels,
    cosines_q,
    u,
    alpha,
    *,
    class_balance,
    temperature,
    softmax_scale,
    simplex_floor=1e-15,
):
    """J(u, alpha) of §1.2 with the whole Dirichlet ln p of §1.6."""
    return objective(
        dirichlet_log_likelihood(simplex_features(cosines_s, softmax_scale, simplex_floor), alpha),
        support_labels,
        dirichlet_log_likelihood(simplex_features(cosines_q, softmax_scale, simplex_floor), alpha),
        u,
        class_balance=class_balance,
        temperature=temperature,
    )


# ---------------------------------------------------------------------------------------------------- losses, §2.1


def double_softmax_loss(u, labels):
    """Mean over items of -ln softmax(u_n)_y = -u_{n,y} + ln sum_k exp(u_{n,k}): probabilities fed as logits (§2.1)."""
    return sum(-log_softmax(row)[label] for row, label in zip(u, labels, strict=True)) / len(labels)


def nll_loss(log_u, labels):
    """Mean over items of -ln u_{n,y}, from log-probabilities (§2.1, §7.1.7)."""
    return sum(-row[label] for row, label in zip(log_u, labels, strict=True)) / len(labels)
