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

size_t layer_bytes(const KvShape& shape, const LayerKv& l) {
  return piece_bytes(shape, l.kv_heads, l.k_dim) + piece_bytes(shape, l.kv_heads, l.v_dim);
}

}  // namespace

KvGrouping grouping_of(const KvShape& shape) {
  std::vector<int> windows;
  const LayerKv* any = nullptr;
  bool alike = true;
  for (const LayerKv& l : shape.layers) {
    windows.push_back(l.kv_heads > 0 ? l.window : -1);
    if (l.kv_heads == 0) continue;
    if (any == nullptr) any = &l;
    alike &= l.kv_heads == any->kv_heads && l.k_dim == any->k_dim && l.v_dim == any->v_dim;
  }
  return alike ? group_layers(windows) : one_group(windows);
}

size_t KvStore::bytes_per_block(const KvShape& shape) {
  const KvGrouping grouping = grouping_of(shape);
  size_t sum = 0, most = 0;
  for (const LayerKv& l : shape.layers) {
    sum += layer_bytes(shape, l);
    most = std::max(most, layer_bytes(shape, l));
  }
  return grouping.groups.size() == 1 ? sum : most * size_t(grouping.layers_per_block);
}

KvStore::KvStore(Device& device, const KvShape& shape, int num_blocks, const KvHost& host)
    : device_(device),
      shape_(shape),
      grouping_(grouping_of(shape)),
      num_blocks_(num_blocks),
      num_host_blocks_(host.num_blocks),
      block_bytes_(bytes_per_block(shape)),
      copier_(device, block_bytes_, host.before_copy) {
  CHECK(num_blocks > 0 && host.num_blocks >= 0 && shape.block_size > 0 && !shape.layers.empty());
  CHECK(bits_of(shape.dtype) >= 8);
  // On a device of its own one block more, for rows that only fill a step up.
  const int num_pads = device.is_host() ? 0 : 1;
  memory_ = device.allocate(block_bytes_ * size_t(num_blocks + num_pads), Memory::device);
  if (host.num_blocks > 0)
    host_memory_ = device.allocate(block_bytes_ * size_t(host.num_blocks), Memory::pinned_host);
  const int64_t block_elements = int64_t(block_bytes_ / (bits_of(shape.dtype) / 8));
  char* const base = static_cast<char*>(memory_.get());
  char* at = base;
  layers_.reserve(shape.layers.size());
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    const LayerKv& l = shape.layers[i];
    const KvGrouping::Place place = grouping_.places[i];
    if (grouping_.groups.size() > 1) at = base + size_t(place.index) * layer_bytes(shape, l);
    KvView view;
    view.table = place.table;
    view.k = piece_view(at, shape, num_blocks, l.kv_heads, l.k_dim, block_elements);
    at += piece_bytes(shape, l.kv_heads, l.k_dim);
    view.v = piece_view(at, shape, num_blocks, l.kv_heads, l.v_dim, block_elements);
    at += piece_bytes(shape, l.kv_heads, l.v_dim);
    if (shape.dtype == DType::fp8_e4m3) view.k_scale = l.k_scale, view.v_scale = l.v_scale;
    layers_.push_back(view);
  }
}

KvView KvStore::layer(int i) const {
  CHECK(i >= 0 && i < int(layers_.size()));
  return layers_[i];
}

void* KvStore::at(BlockId b) const {
  CHECK(b >= 0 && b < num_blocks_);
  return static_cast<char*>(memory_.get()) + size_t(b) * block_bytes_;
}
void* KvStore::host_at(BlockId b) const {
  CHECK(b >= 0 && b < num_host_blocks_);
  return static_cast<char*>(host_memory_.get()) + size_t(b) * block_bytes_;
}

void KvStore::fork(std::span<const BlockCopy> copies) {
  for (const BlockCopy& c : copies) {
    CHECK(c.src != c.dst);
    device_.copy(at(c.dst), at(c.src), block_bytes_, device_.compute_stream());
  }
}

void KvStore::swap(uint64_t plan, std::span<const BlockCopy> out, std::span<const BlockCopy> in) {
  copies_.clear();
  for (const BlockCopy& c : out) copies_.push_back({host_at(c.dst), at(c.src), true});
  for (const BlockCopy& c : in) copies_.push_back({at(c.dst), host_at(c.src), false});
  copier_.launch(plan, copies_);
}

void KvStore::populate() {
  populating_ = std::jthread([this](const std::stop_token& stop) {
    // The nice value of a thread is its own on Linux: serving goes first.
    setpriority(PRIO_PROCESS, id_t(gettid()), 19);
    const auto all_of = [&](const Device::Buffer& memory, int num_blocks) {
      constexpr size_t kPiece = size_t{8} << 20;
      const size_t total = block_bytes_ * size_t(num_blocks);
      for (size_t at = 0; at < total && !stop.stop_requested(); at += kPiece)
        device_.populate(static_cast<char*>(memory.get()) + at, std::min(kPiece, total - at));
    };
    all_of(memory_, num_blocks_);
    all_of(host_memory_, num_host_blocks_);
  });
}

void KvStore::populate_now(int num_blocks) {
  CHECK(num_blocks >= 0 && num_blocks <= num_blocks_);
  device_.populate(memory_.get(), block_bytes_ * size_t(num_blocks));
}

}  // namespace sluice
