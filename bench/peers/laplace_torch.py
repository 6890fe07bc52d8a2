"""laplace-torch with each of its backends: fits, evidence, predictive."""

import torch
from job import Job, serve
from laplace import DiagLaplace, FullLLLaplace, KronLaplace
from laplace.curvature import asdl, backpack, curvlinops

job = Job()
module = {"asdl": asdl, "backpack": backpack, "curvlinops": curvlinops}[job.arguments.backend]
name = {"asdl": "AsdlGGN", "backpack": "BackPackGGN", "curvlinops": "CurvlinopsGGN"}
backend = getattr(module, name[job.arguments.backend])
fitted = {}


def fit(kind, key, **keys):
    laplace = kind(job.network, "classification", prior_precision=1.0, backend=backend, **keys)
    laplace.fit(job.loader())
    fitted[key] = laplace
    return laplace


def kron():
    return fit(KronLaplace, "kron").log_det_posterior_precision.item()


def diagonal():
    return fit(DiagLaplace, "diag").log_det_posterior_precision.item()


def last_layer():
    return fit(FullLLLaplace, "last").log_det_posterior_precision.item()


def eigenvalues():
    """And their vectors, which come with them here."""
    laplace = fitted.get("kron") or fit(KronLaplace, "kron")
    laplace.H_facs.decompose()


def evidence():
    """Log evidence and its gradient at 20 precisions."""
    laplace = fitted.get("kron") or fit(KronLaplace, "kron")
    for precision in torch.logspace(-2, 4, 20):
        delta = precision.clone().requires_grad_()
        value = laplace.log_marginal_likelihood(prior_precision=delta)
        value.backward()
    laplace.prior_precision = 1.0
    return value.item()


def predictive():
    laplace = fitted.get("kron") or fit(KronLaplace, "kron")
    points = job.points[:20]
    with torch.no_grad():
        return laplace(points, pred_type="glm", link_approx="probit").max(1).values.mean().item()


serve({"kron": kron, "diag": diagonal, "last_layer": last_layer,
       "eigenvalues": eigenvalues, "evidence": evidence, "predictive_20": predictive})
