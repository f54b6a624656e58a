"""Response distillation: match the teacher's outputs, as vectors or as distributions over prototypes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cos(student, teacher) over the batch; both (batch, dim). The teacher gets no gradient."""
    return (1 - functional.cosine_similarity(student, teacher.detach(), dim=-1)).mean()


def prototype_cross_entropy(student: Tensor, prototypes: Tensor, target: Tensor, temperature: float = 0.07) -> Tensor:
    """Cross-entropy of softmax(z P^T / temperature) at the query's own prototype.

    `student` (batch, dim) and `prototypes` (classes, dim), L2-normalised rows; `target` (batch,) integers. The
    prototypes are the teacher's photo embeddings: a hard label in the teacher's space.
    """
    return functional.cross_entropy(student @ prototypes.detach().T / temperature, target)


def prototype_kl(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor,
    student_temperature: float = 0.07,
    teacher_temperature: float = 0.07,
) -> Tensor:
    """KL(p_teacher || p_student) of the similarity distributions over the same prototypes, averaged over the batch.

    p = softmax(z P^T / temperature), z the teacher's (batch, dim) or the student's (batch, dim), P (classes, dim);
    rows L2-normalised. The sum runs over classes and the mean over the batch ("batchmean"; the reduction "mean" would
    also divide by the number of classes). Source: Hinton et al. 2015 applied to similarities, as in ReID and SEED
    (Fang et al. 2021, eq. 4-6).
    """
    fixed = prototypes.detach()
    log_q = functional.log_softmax(student @ fixed.T / student_temperature, dim=-1)
    log_p = functional.log_softmax(teacher.detach() @ fixed.T / teacher_temperature, dim=-1)
    return functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
