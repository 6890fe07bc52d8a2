"""nngeometry: Kronecker factors of weight and bias as one block."""

import torch
from job import Job, serve
from nngeometry.metrics import FIM
from nngeometry.object import PMatKFAC

job = Job()


def kron():
    FIM(model=job.network, loader=job.loader(), representation=PMatKFAC, variant="classif_logits",
        device="cpu")


serve({"kron_joint": kron})
