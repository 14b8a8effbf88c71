"""Weights rounded so that a layer's output stays, not each weight: layer by layer, on what the layers before leave."""
