"""curvlinops: Kronecker factors (exact, Monte Carlo, empirical) without their eigenvalues, which
ours has; EKFAC with its corrected spectrum."""

import torch
from curvlinops import EKFACLinearOperator, KFACLinearOperator
from job import Job, serve

job = Job()
loss = torch.nn.CrossEntropyLoss(reduction="sum")


def factors(operator, fisher, **keys):
    made = operator(job.network, loss, list(job.network.parameters()), job.batches(),
                    fisher_type=fisher, check_deterministic=False, separate_weight_and_bias=True,
                    num_per_example_loss_terms=1, **keys)
    made.compute_kronecker_factors()
    if operator is EKFACLinearOperator:
        made.compute_eigenvalue_correction()


serve({"kron": lambda: factors(KFACLinearOperator, "type-2"),
       "kron_mc": lambda: factors(KFACLinearOperator, "mc", mc_samples=1),
       "kron_empirical": lambda: factors(KFACLinearOperator, "empirical"),
       "ekfac": lambda: factors(EKFACLinearOperator, "type-2")})
