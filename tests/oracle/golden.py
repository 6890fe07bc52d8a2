"""Golden values of layer-wise evidence, recomputed from their formulas in float64.

Data are ramp(shape, s)[i] = sin(0.7 i + s), i the row-major flat index. Each line prints what the
formula gives, the published digits, and whether they agree to one unit in the last digit.
Independent of dense_evidence.py and evariste.py: plain formulas on plain tensors. Exit 1 on
disagreement.

    python tests/oracle/golden.py
"""

import math
import sys
from decimal import Decimal

import torch
import torch.nn.functional as F
from torch.autograd.functional import jacobian

torch.set_default_dtype(torch.float64)
failures = []


def ramp(shape, s):
    shape = (shape,) if isinstance(shape, int) else shape
    return torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + s).reshape(shape)


def report(name, value, printed):
    """`printed` is text, so that its last digit is known."""
    value = float(value)
    unit = float(Decimal(1).scaleb(Decimal(printed).as_tuple().exponent))
    # Published values themselves carry rounding noise of a few 1e-15 relative.
    agrees = abs(value - float(printed)) <= max(unit, 2e-14 * abs(value), 1e-14)
    if not agrees:
        failures.append(name)
    print(f"{'ok  ' if agrees else 'DIFF'} {name:<44} {value: .16g}   printed {printed}")


def report_all(name, values, printed):
    for i, (value, text) in enumerate(zip(values, printed, strict=True)):
        report(f"{name}[{i}]", value, text)


def root_of_softmax(p):
    """Columns s_k = sqrt(p_k) (e_k - p): [C, C]."""
    return torch.stack([p[k].sqrt() * (torch.eye(len(p))[k] - p) for k in range(len(p))], 1)


def log_det_ratio(H, delta):
    return torch.linalg.eigvalsh(H).clamp(min=0).div(delta).log1p().sum()


def log_det(H, delta):
    return torch.logdet(H + delta * torch.eye(len(H)))


def softmax_root():
    p = F.softmax(ramp(5, 0.3) * 2, 0)
    fisher = torch.diag(p) - torch.outer(p, p)
    s = root_of_softmax(p)
    report("12.1 sqrt(p) root, largest error", (s @ s.T - fisher).abs().max(), "0.000000000000000")
    c = int(p.argmax())
    rest = [i for i in range(len(p)) if i != c]
    L = torch.zeros(len(p), len(p) - 1)
    L[rest] = torch.linalg.cholesky(fisher[rest][:, rest])
    L[c] = -L.sum(0)
    report("12.1 Cholesky root, largest error", (L @ L.T - fisher).abs().max(),
           "0.000000000000000")
    q = p.flip(0).cumsum(0).flip(0) - p  # q[j] = sum of p after j
    before = torch.cat([torch.ones(1), q[:-1]])
    S = torch.zeros(len(p), len(p) - 1)
    for j in range(len(p) - 1):
        S[j, j] = (p[j] * q[j] / before[j]).sqrt()
        S[j + 1:, j] = -p[j + 1:] * (p[j] / (before[j] * q[j])).sqrt()
    report("closed root of rank C - 1, largest error", (S @ S.T - fisher).abs().max(),
           "0.000000000000000")


def linear_layer():
    X, W, b = ramp((4, 3), 0.1), ramp((3, 3), 0.5), ramp(3, 0.9)
    y, dw, db = torch.tensor([0, 2, 1, 1]), 0.5, 2.0
    f = X @ W.T + b
    log_p = F.log_softmax(f, 1)[range(4), y].sum()
    report("12.2 sum log p", log_p, "-6.625864583825023")
    p = F.softmax(f, 1)
    fisher = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    A, B = X.T @ X / 4, fisher.sum(0)
    a, beta = torch.linalg.eigvalsh(A).clamp(min=0), torch.linalg.eigvalsh(B).clamp(min=0)
    report_all("12.2 eig(A)", a, ["0.00000000000000", "0.37232505675801", "1.13530306474504"])
    report_all("12.2 eig(B)", beta, ["0.00000000000000", "0.55355605653269", "0.86315246109979"])
    lam = torch.outer(beta, a)
    w2, b2 = (W**2).sum(), (b**2).sum()
    scatter = dw * w2 + db * b2
    q = log_p - 0.5 * ((lam / dw).log1p().sum() + (beta / db).log1p().sum() + scatter)
    report("12.2 KFAC log q", q, "-11.588480311137921")
    gamma_w, gamma_b = (lam / (lam + dw)).sum(), (beta / (beta + db)).sum()
    report("12.2 dlogq/drho_W", 0.5 * (gamma_w - dw * w2), "-0.17079217960997")
    report("12.2 dlogq/drho_b", 0.5 * (gamma_b - db * b2), "-1.90970081645617")
    report("12.2 gamma_W", gamma_w, "1.902215439918334")
    report("12.2 |W|^2", w2, "4.487599598276567")
    report("12.2 gamma_b", gamma_b, "0.518247764510549")
    report("12.2 |b|^2", b2, "2.168824698711448")

    # Dense: J of f[n] in (W, b) is f_c = W_c x + b_c.
    J = torch.stack([torch.cat([torch.kron(torch.eye(3), x.unsqueeze(0)), torch.eye(3)], 1)
                     for x in X])
    H = torch.einsum("ncp,ncd,ndq->pq", J, fisher, J)
    delta = torch.cat([torch.full((9,), dw), torch.full((3,), db)])
    dense = torch.logdet(H + torch.diag(delta)) - delta.log().sum()
    report("12.2 dense GGN log q", log_p - 0.5 * (dense + scatter), "-11.488984790330235")
    block = log_det_ratio(H[:9, :9], dw) + log_det_ratio(H[9:, 9:], db)
    report("12.2 block-diagonal GGN log q", log_p - 0.5 * (block + scatter), "-11.545171596497665")
    report("12.2 fixed point delta_W", mackay(lam.flatten(), w2), "0.4468429721870971")
    report("12.2 fixed point delta_b", mackay(beta, b2), "0.5238377565954442")


def mackay(spectrum, squared_norm):
    """delta = gamma(delta) / |theta|^2 by bisection in log delta: the gradient is monotone."""
    low, high = -30.0, 30.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        delta = math.exp(middle)
        gap = delta * squared_norm - (spectrum / (spectrum + delta)).sum()
        low, high = (middle, high) if gap < 0 else (low, middle)
    return math.exp(0.5 * (low + high))


def patches(x, circular):
    """[N, T, C 9] of 3x3 windows with padding 1, by indexing; order c, ky, kx."""
    n, c, height, width = x.shape
    padded = torch.zeros(n, c, height + 2, width + 2)
    padded[:, :, 1:-1, 1:-1] = x
    if circular:
        rows = torch.arange(-1, height + 1) % height
        columns = torch.arange(-1, width + 1) % width
        padded = x[:, :, rows][:, :, :, columns]
    windows = [padded[:, :, i:i + 3, j:j + 3].reshape(n, -1)
               for i in range(height) for j in range(width)]
    return torch.stack(windows, 1)


def convolution():
    x, w, b, R, delta = ramp((2, 2, 4, 4), 0.1), ramp((3, 2, 3, 3), 0.5), ramp(3, 0.9), \
        ramp((3, 3), 0.2), 0.3
    T, N = 16, 2

    def factors(circular):
        a = patches(x, circular)
        o = a @ w.reshape(3, -1).T + b  # [N, T, 3]
        p = F.softmax(torch.tanh(o).mean(1) @ R.T, 1)
        fisher = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
        # d logit_c / d o[t, d] = R[c, d] (1 - tanh^2 o) / T
        J = R[None, :, None, :] * (1 - torch.tanh(o) ** 2)[:, None] / T  # [N, C, T, D]
        g = torch.stack([torch.einsum("ck,ctd->ktd", root_of_softmax(p[n]), J[n])
                         for n in range(N)])
        return a, o, g, fisher, J

    a, o, g, fisher, J = factors(True)
    report("12.4 circular, sum of outputs", o.sum(), "80.91750350461604")
    A = torch.einsum("nti,ntj->ij", a, a) / N
    B = torch.einsum("nktd,nkte->de", g, g) / T
    report("12.4 tr A", A.trace(), "141.57939390618577")
    report("12.4 tr B", B.trace(), "0.002455530577426356")
    report("12.4 log|B(x)A + delta| expand", log_det(torch.kron(B, A), delta),
           "-63.933668989702355")
    mean, total = a.mean(1), g.sum(2)
    reduce = torch.kron(torch.einsum("nkd,nke->de", total, total), mean.T @ mean / N)
    report("12.4 log|.| reduce", log_det(reduce, delta), "-64.9029960792091")
    rows = torch.einsum("nctd,nti->ncdi", J, a).flatten(2)
    exact = torch.einsum("ncp,nce,neq->pq", rows, fisher, rows)
    report("12.4 log|.| exact block", log_det(exact, delta), "-64.30404087040719")
    report("12.4 bias trace expand", T * B.trace(), "0.039288489238821694")
    report("12.4 bias trace exact", torch.einsum("nkd,nkd->", total, total),
           "0.24582576065200376")

    a, o, g, _, _ = factors(False)
    report("12.4 zero padding, sum of outputs", o.sum(), "61.79500541726935")
    A = torch.einsum("nti,ntj->ij", a, a) / N
    B = torch.einsum("nktd,nkte->de", g, g) / T
    report("12.4 zero padding, tr A", A.trace(), "96.48490705467019")
    report("12.4 zero padding, log|.| expand", log_det(torch.kron(B, A), delta),
           "-64.39830158494463")


def factored():
    N, Cin, D, X, Y = 3, 2, 3, 4, 2
    x, U, V = ramp((N, Cin, X), 0.1), ramp((D, Cin, X), 0.3), ramp((Y, D, Cin), 0.6)
    bU, bV, R, du, dv = ramp(D, 1.1), ramp(Y, 1.7), ramp((3, D * Y), 0.2), 0.7, 1.3

    def output(U, bU, V, bV, x):
        z = torch.einsum("dcx,cx->cd", U, x) + bU
        return torch.einsum("ydc,cd->dy", V, z) + bV

    y = torch.stack([output(U, bU, V, bV, s) for s in x])  # [N, D, Y]
    report("12.5 sum of outputs", y.sum(), "32.064930425013316")
    report_all("12.5 y[0]", y[0].flatten(),
               ["5.527710029424454", "-4.4288475412132975", "4.671225567643393",
                "1.9662103424103394", "-0.2764039578859765", "2.9486796765706944"])
    logits = y.flatten(1) @ R.T
    p = F.softmax(logits, 1)
    # gY[n, k, d, y], gZ[n, k, c, d]
    gY = torch.stack([(root_of_softmax(q).T @ R).reshape(3, D, Y) for q in p])
    gZ = torch.einsum("nkdy,ydc->nkcd", gY, V)
    z = torch.einsum("dcx,ncx->ncd", U, x) + bU

    def pairs(g, a):
        """Per group q: B [G, o, o] and A [G, i, i] from g [N, K, G, o] and a [N, G, i]."""
        return (torch.einsum("nkqo,nkqp->qop", g, g), torch.einsum("nqi,nqj->qij", a, a) / len(a))

    for name, g, a, delta, grouped, shared in (
            ("U", gZ, x, du, "-4.540601005103792", "-4.228986285627581"),
            ("V", gY, z.transpose(1, 2), dv, "10.918035010758942", "12.401305665767364")):
        B, A = pairs(g, a)
        groups = len(B)
        report(f"12.5 {name} grouped", sum(log_det(torch.kron(B[q], A[q]), delta)
                                           for q in range(groups)), grouped)
        report(f"12.5 {name} shared", sum(log_det(torch.kron(B.mean(0), A[q]), delta)
                                          for q in range(groups)), shared)

    def logit(U, bU, V, bV, x):
        return R @ output(U, bU, V, bV, x).flatten()

    fisher = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    J = [jacobian(lambda *theta, s=s: logit(*theta, s), (U, bU, V, bV)) for s in x]
    exact = [sum(j[i].flatten(1).T @ fisher[n] @ j[i].flatten(1) for n, j in enumerate(J))
             for i in range(4)]
    report("12.5 U exact", log_det(exact[0], du), "-5.47472783082103")
    report("12.5 V exact", log_det(exact[2], dv), "8.400016144752493")
    total = gZ.sum(2)
    report_all("12.5 eig(H_bU) exact",
               torch.linalg.eigvalsh(torch.einsum("nkd,nke->de", total, total)).clamp(min=0),
               ["0.00000000000000", "0.04557714864256", "4.98199222950943"])
    report_all("12.5 eig(H_bU) exact, by Jacobian", torch.linalg.eigvalsh(exact[1]).clamp(min=0),
               ["0.00000000000000", "0.04557714864256", "4.98199222950943"])
    report_all("12.5 eig(H_bU) expand",
               torch.linalg.eigvalsh(torch.einsum("nkcd,nkce->de", gZ, gZ)),
               ["0.01766229379947", "0.10279470272457", "2.67574102336087"])
    total = gY.sum(2)
    report_all("12.5 eig(H_bV) exact",
               torch.linalg.eigvalsh(torch.einsum("nky,nkw->yw", total, total)),
               ["0.05027746886612", "2.05090901720347"])
    report_all("12.5 eig(H_bV) exact, by Jacobian", torch.linalg.eigvalsh(exact[3]),
               ["0.05027746886612", "2.05090901720347"])
    report_all("12.5 eig(H_bV) expand",
               torch.linalg.eigvalsh(torch.einsum("nkdy,nkdw->yw", gY, gY)),
               ["0.41974049750650", "3.85456533296762"])
    B, A = pairs(gZ[:1], x[:1])
    report("12.5 U grouped, sample 0 only",
           sum(log_det(torch.kron(B[q], A[q]), du) for q in range(Cin)), "-7.333729135202206")
    j = J[0][0]  # [3, D, Cin, X]: the exact block of each c for that sample
    report("12.5 U exact c-blocks, sample 0 only",
           sum(log_det(j[:, :, c].flatten(1).T @ fisher[0] @ j[:, :, c].flatten(1), du)
               for c in range(Cin)), "-7.333729135202206")


def main():
    softmax_root()
    linear_layer()
    convolution()
    factored()
    print(f"{len(failures)} disagree: {', '.join(failures)}" if failures else "all agree")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
