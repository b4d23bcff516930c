"""`treadle.nn`: what neural networks are made of: activations, convolutions, pooling, norms, attention, losses.

All are functions of arrays; parameters are arguments. Names and defaults follow `jax.nn` and `torch.nn.functional`,
images are channels first unless `layout` says otherwise. Those with care in their numbers are ops of their own
(softmax, gelu, norms, attention), which keep their names until a target has no kernel for them. Outside a trace they
run at once, and give NumPy arrays.

What holds of every function whose text does not say otherwise: operands meet in one float dtype, which is that of the
result (integers become float64; half floats stay what they are; fp8 is computed in float32 and comes back as it was);
complex numbers raise TD0831; functions of one array give its shape, those of several stretch them as NumPy does
(TD0817); an axis that is not there raises TD0822. Derivatives exist everywhere, and at corners (relu at 0, ties of
max_pool) are one of the two sides'.
"""

from __future__ import annotations

from .layers.activations import (
    celu,
    elu,
    gelu,
    glu,
    hard_shrink,
    hard_sigmoid,
    hard_silu,
    hard_swish,
    hard_tanh,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    logsumexp,
    mish,
    prelu,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    soft_shrink,
    soft_sign,
    softmax,
    softplus,
    swish,
    tanh,
    tanh_shrink,
    threshold,
)
from .layers.attention import dot_product_attention, scaled_dot_product_attention
from .layers.losses import (
    binary_cross_entropy,
    cosine_similarity,
    cross_entropy,
    hinge,
    huber,
    kl_divergence,
    log_cosh,
    mae,
    mse,
    nll,
    poisson_nll,
    smooth_l1,
    triplet_margin,
)
from .layers.norms import (
    batch_norm,
    batch_stats,
    group_norm,
    instance_norm,
    layer_norm,
    local_response_norm,
    normalize,
    rms_norm,
    standardize,
)
from .layers.resampling import interpolate, pixel_shuffle, pixel_unshuffle
from .layers.tables import dropout, embedding, one_hot
from .layers.windows import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    conv,
    conv_transpose,
    global_avg_pool,
    max_pool,
    min_pool,
)

__all__ = [
    "adaptive_avg_pool", "adaptive_max_pool", "avg_pool", "batch_norm", "batch_stats", "binary_cross_entropy",
    "celu", "conv", "conv_transpose", "cosine_similarity", "cross_entropy", "dot_product_attention", "dropout",
    "elu", "embedding", "gelu", "global_avg_pool", "glu", "group_norm", "hard_shrink", "hard_sigmoid", "hard_silu",
    "hard_swish", "hard_tanh", "hinge", "huber", "instance_norm", "interpolate", "kl_divergence", "layer_norm",
    "leaky_relu", "local_response_norm", "log_cosh", "log_sigmoid", "log_softmax", "logsumexp", "mae", "max_pool",
    "min_pool", "mish", "mse", "nll", "normalize", "one_hot", "pixel_shuffle", "pixel_unshuffle", "poisson_nll",
    "prelu", "relu", "relu6", "rms_norm", "scaled_dot_product_attention", "selu", "sigmoid", "silu", "smooth_l1",
    "soft_shrink", "soft_sign", "softmax", "softplus", "standardize", "swish", "tanh", "tanh_shrink", "threshold",
    "triplet_margin",
]  # fmt: skip
