# On NVIDIA GPUs, with mmcv's compiled operators: docker build -f docker/cuda.Dockerfile -t mmvitscale:cuda .
# docker run --rm -it --gpus all --shm-size 8g -v /data:/data mmvitscale:cuda
# CUDA is that of the PyTorch wheel; the compiler is there for mmcv's operators alone.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends build-essential git libgl1 \
    libglib2.0-0 make python3 python3-dev python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /mmvitscale
COPY . .
# Of the GPUs that the image is for: 8.0 A100, 8.6 and 8.9 consumer cards, 9.0 H100.
ARG TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0"
ENV FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST} PATH=/mmvitscale/.venv/bin:${PATH}
RUN make install-all
CMD ["bash"]
