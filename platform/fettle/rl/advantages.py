"""Advantages: how much better an answer, or a token of it, was than expected. Pure functions over float64.

Letters: N answers of an iteration, T loss-bearing tokens of one answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_EPS_STD = 1e-4  # TRL's, so that answers that hardly differ are not blown up
_LEAST_VARIANCE = 1e-8


def group_normalised(rewards: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(reward − mean) / (std + 1e-4) over the answers to each prompt, [N]; 0 where they are all rewarded alike.

    GRPO: Shao et al. 2024, arXiv:2402.03300, section 4.1.2. std divides by one less than the number of answers, as in
    TRL. groups: [N], the prompt of each answer.
    """
    found = group_centred(rewards, groups)
    which, counts = _groups(groups)
    variance = np.bincount(which, found**2) / np.maximum(counts - 1, 1)
    return found / (np.sqrt(variance)[which] + _EPS_STD)


def group_centred(rewards: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """reward − mean over the answers to each prompt, [N]. Dr. GRPO: Liu et al. 2025, arXiv:2503.20783, section 3.2."""
    rewards = rewards.astype(np.float64)
    which, counts = _groups(groups)
    mean = (np.bincount(which, rewards) / counts)[which]
    # The mean of equal numbers may be off in the last bit, which a division by a tiny std would magnify.
    return np.where(_all_alike(rewards, which), 0.0, rewards - mean)


def leave_one_out(rewards: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """reward − mean reward of the *other* answers to the prompt, [N], of which there is at least one.

    RLOO: Ahmadian et al. 2024, arXiv:2402.14740, section 3.3 (Kool et al. 2019). It is k / (k − 1) times
    `group_centred`, for k answers.
    """
    which, counts = _groups(groups)
    assert counts.min() > 1
    return group_centred(rewards, groups) * (counts / (counts - 1))[which]


def best_of_n(rewards: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Which answer to each prompt has the highest reward, bool [N]; of equal ones the first.

    RAFT: Dong et al. 2023, arXiv:2304.06767, algorithm 1.
    """
    found = np.zeros(len(rewards), dtype=bool)
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        found[places[np.argmax(rewards[places])]] = True
    return found


def best_and_worst(rewards: np.ndarray, groups: np.ndarray) -> list[tuple[int, int]]:
    """Of each prompt, in order, the places of the answers with the highest and the lowest reward; two different ones.

    Of equal ones the first and the last. Each prompt has at least two answers.
    """
    found = []
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        ranked = places[np.argsort(-rewards[places], kind="stable")]
        found.append((int(ranked[0]), int(ranked[-1])))
    return found


def gae(rewards: np.ndarray, values: np.ndarray, *, gamma: float, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """(advantages, returns), [T] each, of the tokens of one answer, after which nothing more comes.

    A_t = δ_t + γλ A_{t+1}, δ_t = r_t + γ V_{t+1} − V_t: Schulman et al. 2015, arXiv:1506.02438, equation 16. The
    returns are what the critic learns: advantages + values. rewards: [T]. values: [T], of the state before each token.
    """
    values = values.astype(np.float64)
    following = np.append(values[1:], 0.0)
    deltas = rewards + gamma * following[: len(values)] - values
    advantages = returns_to_go(deltas, gamma * lam)
    return advantages, advantages + values


def returns_to_go(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """Σ γ^l r_{t+l} over the tokens from each one on, [T]."""
    found = rewards.astype(np.float64)
    for t in range(len(found) - 2, -1, -1):
        found[t] += gamma * found[t + 1]
    return found


def reinforce_pp(rewards: Sequence[np.ndarray], *, gamma: float) -> list[np.ndarray]:
    """The returns from each token on, normalised over all tokens of all answers, a list of [T].

    REINFORCE++: Hu et al. 2025, arXiv:2501.03262, equations for A and A^norm. The baseline variant takes the mean of
    each prompt's answers off the rewards before (`group_centred`).
    """
    return whitened([returns_to_go(one, gamma) for one in rewards])


def whitened(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same numbers with mean 0 and variance 1 over all of them; 0 where they are all alike. No part may be absent:
    statistics of half an iteration are others."""
    if not parts:
        return []
    flat = np.concatenate(parts).astype(np.float64)
    if not len(flat) or np.ptp(flat) == 0:
        return [np.zeros(len(part)) for part in parts]
    flat = (flat - flat.mean()) / np.sqrt(max(flat.var(), _LEAST_VARIANCE))
    return np.split(flat, np.cumsum([len(part) for part in parts])[:-1])


def _groups(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the number of each answer's group, [N]; how many answers each group has)."""
    _, which, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return which, counts


def _all_alike(rewards: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Of each answer whether all of its group are rewarded alike, bool [N]."""
    lowest, highest = np.full(which.max() + 1, np.inf), np.full(which.max() + 1, -np.inf)
    np.minimum.at(lowest, which, rewards)
    np.maximum.at(highest, which, rewards)
    return (lowest == highest)[which]
