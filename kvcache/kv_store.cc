#include "kvcache/kv_store.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

#include "base/check.h"

namespace sluice {
namespace {

// Every K or V piece of a block starts on a cache line, whatever the block size and head size.
size_t piece_bytes(const KvShape& shape, int kv_heads, int dim) {
  const size_t elements = size_t(kv_heads) * size_t(shape.block_size) * size_t(dim);
  return (elements * bits_of(shape.dtype) / 8 + 63) & ~size_t{63};
}

// [num_blocks, kv_heads, block_size, dim], one block apart by `block_elements`.
Tensor piece_view(char* base, const KvShape& shape, int num_blocks, int kv_heads, int dim,
                  int64_t block_elements) {
  Tensor t = Tensor::of(base, shape.dtype, {num_blocks, kv_heads, shape.block_size, dim});
  t.stride[0] = block_elements;
  return t;
}

}  // namespace

size_t KvStore::bytes_per_block(const KvShape& shape) {
  size_t bytes = 0;
  for (const LayerKv& l : shape.layers)
    bytes += piece_bytes(shape, l.kv_heads, l.k_dim) + piece_bytes(shape, l.kv_heads, l.v_dim);
  return bytes;
}

KvStore::KvStore(Device& device, const KvShape& shape, int num_blocks)
    : device_(device), shape_(shape), num_blocks_(num_blocks) {
  CHECK(num_blocks > 0 && shape.block_size > 0 && !shape.layers.empty());
  CHECK(shape.dtype == DType::bf16 || shape.dtype == DType::f32);
  block_bytes_ = bytes_per_block(shape);
  memory_ = device.allocate(block_bytes_ * size_t(num_blocks), Memory::device);
  const int64_t block_elements = int64_t(block_bytes_ / (bits_of(shape.dtype) / 8));
  char* at = static_cast<char*>(memory_.get());
  layers_.reserve(shape.layers.size());
  for (const LayerKv& l : shape.layers) {
    KvView view;
    view.k = piece_view(at, shape, num_blocks, l.kv_heads, l.k_dim, block_elements);
    at += piece_bytes(shape, l.kv_heads, l.k_dim);
    view.v = piece_view(at, shape, num_blocks, l.kv_heads, l.v_dim, block_elements);
    at += piece_bytes(shape, l.kv_heads, l.v_dim);
    layers_.push_back(view);
  }
}

KvView KvStore::layer(int i) const {
  CHECK(i >= 0 && i < int(layers_.size()));
  return layers_[i];
}

void KvStore::fork(std::span<const BlockCopy> copies) {
  char* base = static_cast<char*>(memory_.get());
  for (const BlockCopy& c : copies) {
    CHECK(c.src >= 0 && c.src < num_blocks_ && c.dst >= 0 && c.dst < num_blocks_);
    CHECK(c.src != c.dst);
    device_.copy(base + size_t(c.dst) * block_bytes_, base + size_t(c.src) * block_bytes_,
                 block_bytes_, device_.compute_stream());
  }
}

void KvStore::populate() {
  populating_ = std::jthread([this](const std::stop_token& stop) {
    // The nice value of a thread is its own on Linux: serving goes first.
    setpriority(PRIO_PROCESS, id_t(gettid()), 19);
    constexpr size_t kPiece = size_t{8} << 20;
    const size_t total = block_bytes_ * size_t(num_blocks_);
    for (size_t at = 0; at < total && !stop.stop_requested(); at += kPiece)
      device_.populate(static_cast<char*>(memory_.get()) + at, std::min(kPiece, total - at));
  });
}

}  // namespace sluice
