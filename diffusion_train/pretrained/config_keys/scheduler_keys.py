"""The keys of a scheduler_config.json, of all the classes of diffusers' schedulers that `scheduler` converts."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from diffusion_train.pretrained.config_keys.base import SAVED, Keys, Refusal, group, words


class Defaults(NamedTuple):
    """A scheduler's defaults for keys that a file leaves out."""

    beta_start: float = 1e-4
    beta_end: float = 0.02
    clip_sample: bool = False


_STABLE_DIFFUSION = Defaults(beta_start=0.00085, beta_end=0.012)
CLASSES = {
    **dict.fromkeys(
        ["DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler"],
        Defaults(clip_sample=True),
    ),
    **dict.fromkeys(["PNDMScheduler", "LMSDiscreteScheduler"], Defaults()),
    **dict.fromkeys(["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"], Defaults()),
    **dict.fromkeys(["HeunDiscreteScheduler", "KDPM2DiscreteScheduler"], _STABLE_DIFFUSION),
    **dict.fromkeys(["KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"], _STABLE_DIFFUSION),
    **dict.fromkeys(["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"], Defaults()),
    **dict.fromkeys(["UniPCMultistepScheduler", "DEISMultistepScheduler", "SASolverScheduler"], Defaults()),
}
# Their models take a few large steps; trained as an ordinary model, they lose that.
DISTILLED = ("LCMScheduler", "TCDScheduler", "CMStochasticIterativeScheduler", "FlowMatchLCMScheduler", "SCMScheduler")

_OWN = "is a setting of the sampler, which `sampler` chooses here"
SAMPLING = "it changes sampling, not training"
_FLOW = "is read only with use_flow_sigmas=true, which is refused"
_LATENTS = "is read only with clip_sample=true or thresholding=true, which are refused or turned off"
KEYS = Keys(
    used=words(
        "_class_name num_train_timesteps beta_start beta_end beta_schedule prediction_type rescale_betas_zero_snr "
        "timestep_spacing steps_offset set_alpha_to_one clip_sample use_karras_sigmas use_exponential_sigmas "
        "use_lu_lambdas"
    ),
    harmless={
        **SAVED,
        **group(_OWN, "algorithm_type solver_order solver_type solver_p lower_order_final euler_at_final predict_x0"),
        **group(_OWN, "disable_corrector predictor_order corrector_order tau_func skip_prk_steps noise_sampler_seed"),
        **group(_FLOW, "flow_shift use_dynamic_shifting time_shift_type shift_terminal"),
        **group(_LATENTS, "clip_sample_range sample_max_value dynamic_thresholding_ratio"),
        **group("is a setting of LCMScheduler and TCDScheduler", "original_inference_steps timestep_scaling"),
    },
    refused={
        "trained_betas": Refusal(
            "a table of betas is not supported", "set it to null if beta_schedule gives the same betas"
        ),
        "use_flow_sigmas": Refusal("flow matching models are not supported yet", "give a diffusion model"),
        "use_beta_sigmas": Refusal("is not supported", f"set it to false: {SAMPLING}"),
        "final_sigmas_type": Refusal(
            "must be zero: other values leave noise in the image", f"set it to zero: {SAMPLING}", (None, "zero")
        ),
        "interpolation_type": Refusal(
            "must be linear: log_linear spaces the noise levels in another way than the steps",
            f"set it to linear: {SAMPLING}",
            (None, "linear"),
        ),
        "timestep_type": Refusal(
            "must be discrete: the network takes ln(sigma) / 4 as its time, as EDM models do, which are not supported",
            "give another model",
            (None, "discrete"),
        ),
        **dict.fromkeys(
            ["sigma_min", "sigma_max"],
            Refusal("noise levels other than those of the betas are not supported", f"set it to null: {SAMPLING}"),
        ),
        "thresholding": Refusal("does not work for latents", f"set it to false: {SAMPLING}"),
        "lambda_min_clipped": Refusal("is not supported", f"set it to -Infinity: {SAMPLING}", (None, -inf)),
        "variance_type": Refusal(
            "the network predicts a variance, which is not supported",
            "give another model",
            (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
        ),
    },
)
