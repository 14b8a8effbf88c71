"""Integer kernels as TVM functions: builders for given shapes, and the schedules of each target.

Import it as `intvit.kernels`. The bare name belongs to a package of Hugging Face that transformers probes for by
importing it, also from the root of this repo, where it finds this folder: so this file must import nothing and must not
raise, and then transformers sees no version and goes on without.
"""
