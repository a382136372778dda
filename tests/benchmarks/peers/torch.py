"""(d) PyTorch: the usual loop over a shuffling DataLoader."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from workloads import LEARNING_RATE, Workload


def prepare(workload: Workload) -> Callable[[int], dict[str, Any]]:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    x, y = workload.data()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    widths = (x.shape[1], *workload.settings["hidden"])
    rows = TensorDataset(torch.from_numpy(x), torch.from_numpy(y).long())

    def train(epochs: int) -> dict[str, Any]:
        torch.manual_seed(0)
        layers: list[torch.nn.Module] = []
        for before, after in pairwise(widths):
            layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
        model = torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], workload.settings["classes"])).to(device)
        adam = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        cross_entropy = torch.nn.CrossEntropyLoss()
        losses: list[float] = []
        for _ in range(epochs):
            for inputs, targets in DataLoader(rows, batch_size=workload.batch, shuffle=True):
                adam.zero_grad()
                loss = cross_entropy(model(inputs.to(device)), targets.to(device))
                loss.backward()
                adam.step()
                losses.append(loss.item())
        return {
            "steps": len(losses),
            "last_loss": sum(losses[-(len(losses) // epochs) :]) / (len(losses) // epochs),
            "device": {"cuda": "gpu", "cpu": "cpu"}[device],
        }

    return train
