"""Published constants of ROCK2: the quadratic factor of each stability polynomial.

Abdulle & Medovikov (Numerische Mathematik 90, 2001) write the stability polynomial of degree s as
``R(z) = w(z) P_{s-2}(z)``, ``w(z) = 1 + 2 sigma z + tau z^2``, where the P_j are orthogonal with the weight
``w^2 / sqrt(1 - x^2)`` on an interval mapped to -1 <= x <= 1. The two numbers of w are the result of an optimisation
(the longest stability interval with damping 0.95) and are taken from the authors' program rock2.f, which tabulates
``fp1 = sigma`` and ``fp2 = tau / sigma - sigma``. The interval follows from the two order conditions, and the
recurrence of the P_j from the interval, so the authors' 4476 recurrence coefficients are reproduced, not copied.
"""

from collections.abc import Callable

import numpy as np

__all__ = ["ROCK2_FINISH", "rock2_coefficients"]

#: Stage count -> (fp1, fp2) of rock2.f. The degrees thin out as the authors chose: neighbours differ by at most 10 %.
ROCK2_FINISH = {
    3: (0.4102693550421609, 0.4495196112243335),
    4: (0.3889624104727243, 0.4219428123056774),
    5: (0.3804692420283886, 0.4084335547255627),
    6: (0.3760815680865637, 0.4009301129475925),
    7: (0.3735177579729938, 0.3963598727888637),
    8: (0.3719340231904236, 0.3934034185789226),
    9: (0.3708571145968057, 0.3913676516238603),
    10: (0.3700947006022557, 0.3899091428928617),
    11: (0.3695328931459086, 0.3888276962996660),
    12: (0.3691085831661758, 0.3880048656683555),
    13: (0.3687813249652330, 0.3873650613539532),
    14: (0.3685244707068931, 0.3868583585730354),
    15: (0.3683185599507446, 0.3864499054795832),
    16: (0.3681542178682514, 0.3861178821587815),
    17: (0.3680181997765286, 0.3858426294881124),
    18: (0.3679084456991284, 0.3856144554520791),
    19: (0.3678181571053212, 0.3854228843194507),
    20: (0.3678314333608541, 0.3853156085078759),
    21: (0.3677897070402892, 0.3851902798680153),
    22: (0.3681800192470787, 0.3853705093720269),
    24: (0.3681272993461229, 0.3851957294861824),
    26: (0.3680840569645587, 0.3850587241670235),
    28: (0.3680522380648169, 0.3849515900397918),
    30: (0.3680263578626069, 0.3848648995575697),
    32: (0.3680061275157194, 0.3847945082231300),
    35: (0.3679837719607466, 0.3847117224407400),
    38: (0.3679668653311732, 0.3846478726309070),
    41: (0.3679542340323301, 0.3845979020112835),
    45: (0.3679429332584250, 0.3845472492329918),
    49: (0.3679349432021754, 0.3845088319509754),
    53: (0.3679290943359695, 0.3844789634065264),
    58: (0.3679242023884676, 0.3844504092359686),
    63: (0.3679207541681089, 0.3844285235163634),
    68: (0.3679185472223537, 0.3844115660464609),
    74: (0.3679168690130640, 0.3843957877945634),
    80: (0.3679158588043139, 0.3843835767106759),
    87: (0.3679154592969145, 0.3843727001444428),
    95: (0.3679154025286917, 0.3843632394180673),
    104: (0.3679157536198652, 0.3843553120908175),
    114: (0.3679163676763697, 0.3843487746818896),
    125: (0.3679171904021983, 0.3843434800804404),
    137: (0.3679181786833088, 0.3843392605995229),
    150: (0.3679192462983425, 0.3843359163858929),
    165: (0.3679204323079710, 0.3843331309176606),
    182: (0.3679216942157868, 0.3843309056586355),
    200: (0.3679229127010114, 0.3843292556220249),
}


def rock2_coefficients(s: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Return ``(mu, nu, mu_t, sigma, tau)`` of the method with `s` stages.

    ``P_j = (mu_j + mu_t_j z) P_{j-1} + nu_j P_{j-2}``, arrays of shape (s - 1,), entry 0 unused.
    """
    sigma, offset = ROCK2_FINISH[s]
    tau = sigma * (sigma + offset)
    if s == 3:  # P_1 is fixed by order 1 alone
        return np.array([0.0, 1.0]), np.zeros(2), np.array([0.0, 1.0 - 2.0 * sigma]), sigma, tau

    def recurrence(interval: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _orthogonal(s - 2, interval[0], interval[1] * s * s, sigma, tau)

    def order_defect(interval: np.ndarray) -> np.ndarray:
        first, second = _taylor(*recurrence(interval))
        return np.array([first + 2.0 * sigma - 1.0, second + 2.0 * sigma * first + tau - 0.5])

    # the interval ends a little left of the origin and is about 0.81 s^2 long
    interval = _newton(order_defect, np.array([0.09, 0.81 - 1.28 / s**2]))
    return *recurrence(interval), sigma, tau


def _orthogonal(
    degree: int, right: float, length: float, sigma: float, tau: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (mu, nu, mu_t) of the polynomials orthogonal on ``-right - length <= z <= -right``, with P_j(0) = 1.

    Stieltjes' procedure. Its inner products are exact: the Chebyshev weight times polynomials of degree at most
    2 degree + 3, against degree + 4 Gauss-Chebyshev nodes.
    """
    n_nodes = degree + 4
    x = np.cos((np.arange(n_nodes) + 0.5) * np.pi / n_nodes)
    origin = 1.0 + 2.0 * right / length  # z = 0 in terms of x
    z = 0.5 * length * (x - origin)
    weight = (1.0 + z * (2.0 * sigma + tau * z)) ** 2
    mu, nu, mu_t = np.zeros((3, degree + 1))
    before, now = np.zeros(n_nodes), np.ones(n_nodes)
    norm_before, ratio = 1.0, 1.0
    for j in range(1, degree + 1):
        # monic: p_j = (x - a) p_{j-1} - b p_{j-2};  ratio = p_j(origin) / p_{j-1}(origin) rescales to P_j(0) = 1
        norm = float(weight @ (now * now))
        a = float(weight @ (x * now * now)) / norm
        b_scaled = norm / norm_before * ratio if j > 1 else 0.0
        ratio = origin - a - b_scaled
        mu[j], mu_t[j], nu[j] = (origin - a) / ratio, 2.0 / (length * ratio), -b_scaled / ratio
        before, now = now, (mu[j] + mu_t[j] * z) * now + nu[j] * before
        norm_before = norm
    return mu, nu, mu_t


def _taylor(mu: np.ndarray, nu: np.ndarray, mu_t: np.ndarray) -> tuple[float, float]:
    """Return the coefficients of z and z^2 of the last polynomial of a recurrence."""
    before, now = np.array([1.0, 0.0, 0.0]), np.array([1.0, mu_t[1], 0.0])
    for j in range(2, len(mu)):
        times_z = np.array([0.0, now[0], now[1]])
        before, now = now, mu[j] * now + mu_t[j] * times_z + nu[j] * before
    return float(now[1]), float(now[2])


def _newton(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return the root of a function of two variables to rounding, by Newton with central differences."""
    value = function(x)
    while True:
        step = 1e-6 * np.abs(x)
        jacobian = np.column_stack([(function(x + e) - function(x - e)) / (2.0 * e.max()) for e in np.diag(step)])
        after = x - np.linalg.solve(jacobian, value)
        value_after = function(after)
        if not np.abs(value_after).max() < np.abs(value).max():  # rounding has the last word
            return x
        x, value = after, value_after
