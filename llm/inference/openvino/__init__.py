"""The OpenVINO backend: the forward pass of Llama-shaped models on a CPU, in fp32 or with 8-bit weights."""
