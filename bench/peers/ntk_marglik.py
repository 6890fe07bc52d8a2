"""ntk-marglik: fit, log evidence and its gradient in every input pixel, through the curvature.

EVARISTE_NTK_MARGLIK names a checkout of github.com/AlexImmer/ntk-marglik, which brings a
laplace and an asdfghjkl of its own. Two ways, as its marglik.py has them: `direct` keeps the graph
of the whole fit and differentiates the evidence; `jvp` fits without a graph, then goes through the
batches again, each contracted with the derivative of log|P| in its factors.
"""

import os
import sys
from pathlib import Path

import torch
from job import Job, serve

for package in ("laplace", "asdl"):
    sys.path.insert(0, str(Path(os.environ["EVARISTE_NTK_MARGLIK"]) / "dependencies" / package))
from laplace import KronLaplace  # noqa: E402
from laplace.curvature import AsdlGGN  # noqa: E402

job = Job()
fitted = []


class Loader(list):
    """Batches, with the `dataset` whose length the fit asks for."""

    dataset = job.x


def laplace(differentiable):
    return KronLaplace(job.network, "classification", prior_precision=torch.ones(1),
                       backend=AsdlGGN, backend_kwargs={"differentiable": differentiable})


def squares(x):
    """sum of squared input gradients; the fit's own backwards add to .grad, so it is emptied."""
    total, x.grad = x.grad.square().sum().item(), None
    return total


def direct():
    """Leaves are the batches' inputs."""
    batches = Loader((x.clone().requires_grad_(), y) for x, y in job.batches())
    fit = laplace(True)
    fit.fit(batches)
    for x, _ in batches:
        x.grad = None
    (-fit.log_marginal_likelihood()).backward()
    return sum(squares(x) for x, _ in batches)


def jvp():
    fit = laplace(False)
    fit.fit(Loader(job.batches()))
    direction = fit.posterior_precision.jvp_logdet()
    fit.backend.differentiable = True
    total = 0.0
    for x, y in job.batches():
        x = x.clone().requires_grad_()
        fit.loss, factors = fit._curv_closure(x, y, len(job.x))
        x.grad = None
        (-fit.log_likelihood).backward(inputs=[x], retain_graph=True)
        (0.5 * factors.flatten()).backward(gradient=direction, inputs=[x])
        total += squares(x)
    return total


def predictive():
    if not fitted:
        fitted.append(laplace(False))
        fitted[0].fit(Loader(job.batches()))
    return fitted[0](job.points[:20], pred_type="glm", link_approx="probit").max(1).values.mean()


serve({"hyper_gradient": jvp if job.arguments.backend == "jvp" else direct,
       "predictive_20": predictive})
