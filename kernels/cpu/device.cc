#include "kernels/cpu/device.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <new>

#include "base/check.h"
#include "base/status.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/isa.h"

namespace sluice {
namespace {

constexpr size_t kPage = 4096, kHugePage = size_t{2} << 20;
constexpr int kMaxThreads = 1024;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

[[noreturn]] void out_of_memory(size_t bytes) {
  std::fprintf(stderr, "out of memory: cannot allocate %zu bytes\n", bytes);
  std::abort();
}

// Large buffers straight from the kernel, on a huge page's border: zeroed on first touch, and
// weights are read with few TLB misses. The others from the heap.
Device::Buffer allocate_host(size_t bytes) {
  if (bytes < kHugePage) {
    const size_t size = round_up(std::max<size_t>(bytes, 1), 64);
    void* p = ::operator new (size, std::align_val_t{64}, std::nothrow);
    if (p == nullptr) out_of_memory(bytes);
    std::memset(p, 0, size);
    return {p, [](void* q) { ::operator delete (q, std::align_val_t{64}); }};
  }
  const size_t size = round_up(bytes, kPage) + kHugePage;
  void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) out_of_memory(bytes);
  void* p = reinterpret_cast<void*>(round_up(reinterpret_cast<size_t>(base), kHugePage));
  madvise(p, round_up(bytes, kPage), MADV_HUGEPAGE);
  return {p, [base, size](void*) { munmap(base, size); }};
}

// The value in bytes of a line such as "MemAvailable:  123 kB".
size_t meminfo(const std::string& key) {
  std::ifstream file("/proc/meminfo");
  for (std::string name, unit; file >> name;) {
    size_t value = 0;
    file >> value;
    std::getline(file, unit);
    if (name == key + ":") return value * 1024;
  }
  return 0;
}

size_t read_bytes(const std::string& path) {
  std::ifstream file(path);
  size_t value = 0;
  return file >> value ? value : std::numeric_limits<size_t>::max();
}

// What the cgroup leaves: its limit less what is used that cannot be reclaimed as page cache.
size_t cgroup_left(const std::string& directory, const char* limit_name, const char* usage_name,
                   const char* cache_key) {
  const size_t limit = read_bytes(directory + limit_name);
  if (limit >= std::numeric_limits<size_t>::max() / 4) return std::numeric_limits<size_t>::max();
  const size_t usage = read_bytes(directory + usage_name);
  size_t cache = 0;
  std::ifstream stat(directory + "/memory.stat");
  for (std::string name; stat >> name;) {
    size_t value = 0;
    stat >> value;
    if (name == cache_key) cache = value;
  }
  const size_t held = usage > cache ? usage - cache : 0;
  return limit > held ? limit - held : 0;
}

size_t available_memory() {
  size_t best = meminfo("MemAvailable");
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      best = std::min(best, cgroup_left("/sys/fs/cgroup" + path, "/memory.max", "/memory.current",
                                        "inactive_file"));
    } else if (controllers == "memory") {
      best = std::min(best, cgroup_left("/sys/fs/cgroup/memory" + path, "/memory.limit_in_bytes",
                                        "/memory.usage_in_bytes", "total_inactive_file"));
    }
  }
  return best;
}

class CpuDevice final : public Device {
 public:
  CpuDevice(cpu::Isa isa, int threads)
      : isa_(isa), threads_(threads), ops_(cpu::kernels_for(isa), threads) {}

  std::string name() const override {
    return fmt::format("cpu ({}, {} thread{})", cpu::name_of(isa_), threads_,
                       threads_ == 1 ? "" : "s");
  }
  Buffer allocate(size_t bytes, Memory) override { return allocate_host(bytes); }
  size_t free_bytes() const override { return available_memory(); }
  size_t total_bytes() const override {
    return size_t(sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE));
  }
  bool is_host() const override { return true; }
  void populate(void* memory, size_t bytes) override {
    // Whole pages inside the part. A kernel before 5.14 refuses: pages come with their first use.
    const size_t begin = round_up(reinterpret_cast<size_t>(memory), kPage);
    const size_t end = (reinterpret_cast<size_t>(memory) + bytes) / kPage * kPage;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE);
  }
  Ops& ops() override { return ops_; }

  Stream compute_stream() override { return {}; }
  Stream copy_stream() override { return {}; }
  void copy(void* dst, const void* src, size_t bytes, Stream) override {
    std::memcpy(dst, src, bytes);
  }
  Event record(Stream) override { return {}; }
  void wait(Stream, Event) override {}
  void sync(Event) override {}
  Nanos between(Event, Event) override { return {}; }
  std::unique_ptr<Graph> capture(Stream, const std::function<void()>&) override { return nullptr; }

 private:
  const cpu::Isa isa_;
  const int threads_;
  cpu::CpuOps ops_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> make_cpu_device(const CpuOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return invalid_argument("threads must be between 0 (automatic) and {}, not {}", kMaxThreads,
                            options.threads);
  }
  const absl::StatusOr<cpu::Isa> isa = cpu::choose_isa(options.isa);
  if (!isa.ok()) return isa.status();
  const int threads = options.threads > 0 ? options.threads : cpu::available_cpus();
  return std::make_unique<CpuDevice>(*isa, threads);
}

}  // namespace sluice
