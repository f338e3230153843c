"""Batch norms of a network, estimated anew."""

import torch

from prunet_det.arch.network import reestimate_norms
from prunet_det.zoo import create


def test_statistics_are_the_mean_over_the_batches():
    net = create("prunet_demo", num_classes=3, drop_path_rate=0.5, drop_rate=0.5)
    net.stem[0].bn.eval()  # frozen
    batches = [torch.randn(4, 3, 32, 32) + k for k in range(3)]
    weights = {name: p.detach().clone() for name, p in net.named_parameters()}
    reestimate_norms(net, batches)
    conv = net.stem[0].conv
    with torch.no_grad():
        means = torch.stack([conv(b).mean((0, 2, 3)) for b in batches]).mean(0)
    torch.testing.assert_close(net.stem[0].bn.running_mean, means)
    assert all(torch.equal(p, weights[name]) for name, p in net.named_parameters())
    assert not any(m.training for m in net.modules()) and net.stem[0].bn.momentum == 0.1


def test_dropout_and_stochastic_depth_stay_off():
    torch.manual_seed(0)
    batch = torch.randn(4, 3, 32, 32)
    torch.manual_seed(0)
    plain = create("prunet_demo", num_classes=3)
    torch.manual_seed(0)
    dropping = create("prunet_demo", num_classes=3, drop_path_rate=0.9, drop_rate=0.9)
    for net in (plain, dropping):
        reestimate_norms(net, [batch])
    one, other = plain.state_dict(), dropping.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
