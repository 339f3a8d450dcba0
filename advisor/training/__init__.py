"""Building, data and the Trainer run: the code that both runs and is traced."""

from advisor.training.hub import forbid_kernel_downloads

forbid_kernel_downloads()  # before any module here imports transformers, which is when kernels would be fetched
