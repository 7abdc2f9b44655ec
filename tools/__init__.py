"""Programs for those who work on gpucheck: benchmarks, pictures, generated text."""
