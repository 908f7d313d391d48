"""The conditional distribution of E7: prompts of tokens, each with a few possible responses, one per mode."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from numpy.typing import ArrayLike

from mrtsim.errors import InputError

# Special tokens; a padding token is counted among the paper's four and never used here.
PAD, BOS, SEP, EOS = range(4)


class TokenModes(eqx.Module):
    """Token sequences whose response is one of a few, named by its mode; the toy of arXiv:2606.00544's E7.

    A prompt is `prompt_length` distinct prompt tokens, all such prompts equally likely. The response of mode m is the
    mode's token, `content_length` content tokens that prompt and mode determine, and the end token. Content tokens are
    pseudo-random: Threefry bits of the key `fold_in(key(map_seed), code)`, where `code` numbers (prompt, mode). They
    are the same everywhere and for every run, uniform over prompts, and nothing about them can be inferred for a
    prompt that was not seen. Vocabulary: 4 special tokens, then prompt, mode and content tokens.

    Args:
        truth: (modes,) probabilities of the modes under p(y|x).
        generator: (modes,) probabilities of the modes among the candidates of a pool.
        reward_means: (modes,) mean reward of a candidate.
        reward_noise: standard deviation of a candidate's reward about it.
        prompt_tokens: number of different prompt tokens.
        content_tokens: number of different content tokens.
        prompt_length: prompt tokens in a prompt.
        content_length: content tokens in a response.
        map_seed: picks another map from prompt and mode to content.

    Raises:
        InputError: probabilities or sizes that make no sense.
    """

    truth: np.ndarray
    generator: np.ndarray
    reward_means: np.ndarray
    reward_noise: float = eqx.field(static=True)
    prompt_tokens: int = eqx.field(static=True)
    content_tokens: int = eqx.field(static=True)
    prompt_length: int = eqx.field(static=True)
    content_length: int = eqx.field(static=True)
    map_seed: int = eqx.field(static=True)

    def __init__(
        self,
        truth: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3),
        generator: tuple[float, ...] = (0.95, 0.04, 0.01),
        reward_means: tuple[float, ...] = (1.0, 0.97, 0.96),
        reward_noise: float = 0.02,
        prompt_tokens: int = 64,
        content_tokens: int = 128,
        prompt_length: int = 4,
        content_length: int = 4,
        map_seed: int = 0,
    ):
        self.truth, self.generator, self.reward_means = (
            np.asarray(a, np.float64) for a in (truth, generator, reward_means)
        )
        for name, values in (("truth", self.truth), ("generator", self.generator)):
            if values.shape != self.reward_means.shape or (values < 0).any() or abs(values.sum() - 1) > 1e-9:
                raise InputError(f"{name} must be {self.modes} probabilities that sum to 1, got {values}")
        if not reward_noise > 0:
            raise InputError(f"reward_noise = {reward_noise} must be positive")
        if not 1 <= prompt_length <= prompt_tokens:
            raise InputError(
                f"prompt_length = {prompt_length} must lie between 1 and prompt_tokens = {prompt_tokens}"
            )
        if prompt_tokens**prompt_length * self.modes > 2**32:
            raise InputError("prompt_tokens ^ prompt_length x modes must not exceed 2^32")
        self.reward_noise, self.map_seed = reward_noise, map_seed
        self.prompt_tokens, self.content_tokens = prompt_tokens, content_tokens
        self.prompt_length, self.content_length = prompt_length, content_length

    @property
    def modes(self) -> int:
        """Number of modes."""
        return len(self.reward_means)

    @property
    def vocabulary(self) -> int:
        """Number of tokens; 199 by default."""
        return 4 + self.prompt_tokens + self.modes + self.content_tokens

    @property
    def length(self) -> int:
        """Tokens of a sequence: begin, prompt, separator, mode, content, end; 12 by default."""
        return self.prompt_length + self.content_length + 4

    @property
    def mode_position(self) -> int:
        """Where a sequence has its mode's token, which is where its response starts."""
        return self.prompt_length + 2

    def sample_prompts(self, key: PRNGKeyArray, n: int) -> Int[Array, "n prompt_length"]:
        """Draw n prompts, as tokens."""
        order = jax.lax.top_k(jax.random.uniform(key, (n, self.prompt_tokens)), self.prompt_length)[1]
        return 4 + order

    def sample_pools(
        self, key: PRNGKeyArray, shape: tuple[int, ...]
    ) -> tuple[Int[Array, "*shape"], Float[Array, "*shape"]]:
        """Candidates from the generator, whatever the prompt: the mode of each, which is all there is, and its reward.

        Rewards are counted from the best mode's mean, where single precision ranks them like double.
        """
        mode_key, reward_key = jax.random.split(key)
        u = jax.random.uniform(mode_key, shape)
        modes = jnp.searchsorted(np.cumsum(self.generator)[:-1].astype(np.float32), u, side="right")
        means = jnp.asarray(self.reward_means - self.reward_means.max(), jnp.float32)
        return modes, means[modes] + self.reward_noise * jax.random.normal(reward_key, shape)

    def sequences(self, prompts: Int[Array, "prompts prompt_length"]) -> Int[Array, "prompts modes length"]:
        """The whole sequence for every prompt and mode: p(y|x) puts `truth` on them."""
        n, first_mode = len(prompts), 4 + self.prompt_tokens
        digits = self.prompt_tokens ** jnp.arange(self.prompt_length, dtype=jnp.uint32)
        codes = jnp.sum((prompts - 4).astype(jnp.uint32) * digits, axis=1, dtype=jnp.uint32)
        codes = codes[:, None] * jnp.uint32(self.modes) + jnp.arange(self.modes, dtype=jnp.uint32)

        def content(code: Array) -> Array:
            key = jax.random.fold_in(jax.random.key(self.map_seed), code)
            return jax.random.randint(key, (self.content_length,), 0, self.content_tokens)

        def column(token: int) -> Array:
            return jnp.full((n, self.modes, 1), token)

        modes = jnp.broadcast_to(first_mode + jnp.arange(self.modes)[:, None], (n, self.modes, 1))
        parts = [
            column(BOS),
            jnp.broadcast_to(prompts[:, None], (n, self.modes, self.prompt_length)),
            column(SEP),
            modes,
            first_mode + self.modes + jax.vmap(jax.vmap(content))(codes),
            column(EOS),
        ]
        return jnp.concatenate(parts, axis=-1).astype(jnp.int32)

    def token_floor(
        self, mode_probabilities: ArrayLike, *, content_known: bool
    ) -> Float[np.ndarray, " next_tokens"]:
        """Least expected NLL in nats of every next token, for a model that gives the modes these probabilities.

        The expectation is over prompts and p(y|x). With the true probabilities and the content known it is the entropy
        of the token; content that cannot be inferred, as that of prompts never seen, costs log(`content_tokens`) each.
        """
        with np.errstate(divide="ignore"):
            mode = -np.sum(self.truth * np.log(np.asarray(mode_probabilities, np.float64)))
        prompt = np.log(self.prompt_tokens - np.arange(self.prompt_length))
        content = np.full(self.content_length, 0.0 if content_known else math.log(self.content_tokens))
        return np.concatenate([prompt, [0.0, mode], content, [0.0]])
