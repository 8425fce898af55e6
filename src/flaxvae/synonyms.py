"""Other programs' names for flaxvae's settings and values: an error message gives flaxvae's name.

Each line has the other names, flaxvae's names (the first one that applies is used), and an
explanation if one is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from flaxvae.errors import did_you_mean

_BCE = "-log p(x|z) of bernoulli is the BCE, summed over pixels"
_MSE = "gaussian with its fixed --sigma is the MSE, summed over pixels and divided by 2 sigma^2"
_LOSS = "bernoulli is the BCE, gaussian with its fixed --sigma the MSE, both summed over pixels"
_DEVICES = "by default all that JAX finds"

_LINES = [
    # ---- settings
    ("loss criterion recon_loss reconstruction_loss rec_loss", "likelihood", _LOSS),
    ("lr learning_rate_init step_size eta base_lr", "learning_rate", ""),
    ("batch bs batchsize minibatch train_batch_size", "batch_size", ""),
    ("embedding_dim embed_dim", "code_dim latent_dim", ""),
    ("latent latents z z_dim zdim z_size nz n_z latent_size latent_dimension n_latent n_latents"
     " latent_dims latent_dim code_size bottleneck", "latent_dim latent_dims variables code_dim",
     ""),
    ("hidden hidden_dim hidden_dims hidden_size hidden_sizes hidden_units layers layer_sizes"
     " layer_dims fc_dims", "widths", "of --net mlp"),
    ("filters n_filters num_filters feature_maps conv_channels", "channels", "of --net resnet"),
    ("num_epochs n_epochs nb_epochs max_epochs num_train_epochs", "epochs", ""),
    ("max_steps iterations num_steps num_iterations iters n_iter max_iter", "epochs",
     "training is counted in passes over the images"),
    ("kld_weight kl_weight kl_coef kl_coeff lambda_kl kl_beta kld_beta", "beta",
     "the KL's weight; 1 is the ELBO, since the likelihood is summed over pixels"),
    ("kl_warmup kl_annealing annealing kl_anneal beta_warmup kl_schedule beta_schedule", "anneal",
     "linear or cyclical"),
    ("annealing_steps kl_warmup_steps kl_anneal_steps", "anneal_steps", ""),
    ("free_nats freebits kl_free_bits min_kl", "free_bits", ""),
    ("kl_balance balance_kl kl_balancing kl_balancer", "balance", "of a hierarchy's KL"),
    ("random_state random_seed manual_seed rng rng_seed prng_seed", "seed", ""),
    ("num_seeds n_seeds repeats n_runs num_runs", "seeds", ""),
    ("gpu gpus cuda device use_cuda no_cuda num_gpus n_gpu num_devices accelerator tpu", "devices",
     _DEVICES),
    ("output output_file out_file filename save_to", "out run", ""),
    ("out_dir output_dir save_dir log_dir logdir results_dir work_dir workdir run_dir run_name"
     " exp_name save_path", "run out", ""),
    ("checkpoint ckpt restore resume_from load load_from pretrained continue", "resume", ""),
    ("save_every save_freq save_interval checkpoint_freq checkpoint_interval", "checkpoint_every",
     ""),
    ("data data_path data_root root data_folder dataset_path dataset_dir input",
     "data_dir images", "a folder of IDX files; pass a file of images as --dataset"),
    ("arch architecture network backbone encoder", "net", ""),
    ("act nonlinearity activation_fn", "activation", ""),
    ("opt optim optimiser", "optimizer", ""),
    ("scheduler lr_scheduler lr_schedule lr_decay", "schedule", ""),
    ("warmup warm_up lr_warmup warmup_iters num_warmup_steps", "warmup_steps",
     "of the learning rate; the KL's is --anneal"),
    ("clip grad_clip clip_grad clip_grad_norm gradient_clip gradient_clip_val max_grad_norm",
     "clip_norm", ""),
    ("skip_threshold grad_skip skip_grad skip_grad_norm gradient_skip gradient_skip_threshold",
     "skip_norm", ""),
    ("early_stopping early_stop", "patience", "a number of epochs"),
    ("img_size imsize im_size image_shape resolution img_dim", "image_size", ""),
    ("val val_split validation_split val_size val_fraction valid", "validation", ""),
    ("hflip flips mirror mirrored horizontal_flip horizontal_flips random_flip"
     " random_horizontal_flip augment augmentation", "flip", "of training images, left to right"),
    ("binarize binarized binarise binary", "binarization", ""),
    ("fp16 bf16 amp mixed_precision half dtype", "precision", ""),
    ("grad_accum gradient_accumulation gradient_accumulation_steps accumulate_grad_batches accum",
     "accumulate", ""),
    ("ema_decay ema_rate polyak", "ema", ""),
    ("std stddev decoder_std obs_std", "sigma", "of --likelihood gaussian"),
    ("input_dim data_dim n_pixels num_pixels", "pixels", ""),
    ("reduction recon_reduction", "reconstruction", "mean, sum or total"),
    ("recon_weight reconstruction_weight", "factor", "of the reconstruction term"),
    ("inverse invert reverse", "back", ""),
    ("num_mixtures n_mixtures n_components num_components mixtures", "prior_components components",
     ""),
    ("num_images n_images", "n images", ""),
    ("num num_samples n_samples nsamples number count", "n samples k", ""),
    ("mc_samples n_mc num_mc_samples l", "samples", "draws of z for each image"),
    ("iw_samples importance_samples num_importance_samples n_importance", "k", ""),
    ("n_chains num_chains chain particles n_particles", "chains", "of annealing"),
    ("ais ais_steps annealing_steps n_temperatures num_temperatures temps n_temps n_dists",
     "temperatures", "steps of annealed importance sampling"),
    ("num_embeddings n_embed n_embeddings codebook_size n_codes num_codes", "codes", ""),
    ("commitment_cost commitment_weight", "commitment", ""),
    ("temp tau", "temperature", ""),
    ("noise_level noise_std noise_factor", "level", ""),
    ("class class_label digit target condition", "label", ""),
    ("world_size num_hosts nproc num_nodes", "num_processes", ""),
    ("rank node_rank process_index", "process_id", ""),
    ("master_addr coordinator_address", "coordinator", ""),
    # ---- values
    ("bce binary_crossentropy binary_cross_entropy cross_entropy xent", "bernoulli likelihood",
     _BCE),
    ("mse l2 normal gauss mean_squared_error", "gaussian likelihood", _MSE),
    ("cnn convnet convolutional", "conv", ""),
    ("fc dense feedforward", "mlp", ""),
    ("residual resnet18", "resnet", ""),
    ("swish", "silu", ""),
    ("bfloat16 fp16 float16 half mixed", "bf16", ""),
    ("fp32 f32 full", "float32", ""),
    ("warmup monotonic", "linear", ""),
    ("cyclic cycle", "cyclical", ""),
    ("static", "fixed", "one draw, the same in every run"),
    ("stochastic", "dynamic", "drawn again every time an image is used"),
    ("analytic analytical exact closed", "closed_form", ""),
    ("mc sampled", "monte_carlo", ""),
    ("dreg", "doubly_reparameterized", ""),
    ("realnvp nvp", "coupling", ""),
    # ---- models and commands
    ("autoencoder", "ae", ""),
    ("dae", "denoising_ae", ""),
    ("conditional conditional_vae", "cvae", ""),
    ("infovae info_vae wae", "mmd_vae", ""),
    ("factorvae", "factor_vae", ""),
    ("hierarchical hvae lvae", "ladder_vae", ""),
    ("vdvae nvae biva", "deep_vae", ""),
    ("nf_vae iaf_vae", "flow_vae", ""),
    ("fit run", "train", ""),
    ("test evaluate score", "eval", ""),
    ("nll ais bdmc log_likelihood loglikelihood marginal_likelihood evidence", "likelihood", ""),
    ("list ls history experiments", "runs", ""),
    ("diff versus vs leaderboard", "compare", ""),
    ("prune delete rm gc", "runs", "`flaxvae runs prune` removes some"),
    ("diagnosis diagnostics diagnostic explain why collapse", "diagnose", ""),
    ("generate", "sample", ""),
    ("anomaly anomalies outliers ood novelty detect", "score", ""),
    ("fpr", "false_positive_rate", ""),
    ("embed latents", "encode", ""),
    ("fid kid frechet precision recall coverage", "quality", ""),
    ("disentanglement mig dci factors", "disentangle", ""),
    ("plot draw", "figures", ""),
    ("page html dashboard", "report", ""),
    ("check", "verify", ""),
]  # fmt: skip


class Meaning(NamedTuple):
    """What a word stands for: the first of these names that applies."""

    names: list[str]
    why: str


MEANINGS: dict[str, list[Meaning]] = {}
for _words, _names, _why in _LINES:
    for _word in _words.split():
        MEANINGS.setdefault(_word, []).append(Meaning(_names.split(), _why))


def hint(word: str, options: Iterable[str]) -> str:
    """``"; here it is '--learning-rate'"``, with an explanation, for another program's word.

    Args:
        word: what was typed, with or without dashes.
        options: the valid names, with or without dashes.

    Returns:
        The hint, or ``did_you_mean`` for the closest option, or "".
    """
    known = {_plain(option): option for option in options}
    for meaning in MEANINGS.get(_plain(word), []):
        for name in meaning.names:
            if name in known:
                return f"; here it is {known[name]!r}" + f": {meaning.why}" * bool(meaning.why)
    return did_you_mean(word, known.values())


def _plain(word: str) -> str:
    return word.lstrip("-").replace("-", "_").lower()
