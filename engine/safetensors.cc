#include "engine/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <set>

#include "engine/json_util.h"

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

namespace sluice {

// A file's bytes, read-only.
class Safetensors::Mapping {
 public:
  static absl::StatusOr<std::shared_ptr<Mapping>> open(const std::filesystem::path& path) {
    const std::string name = path.filename().string();
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return not_found("{}: {}", path.string(), std::strerror(errno));
    struct stat info {};
    if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
      ::close(fd);
      return invalid_argument("{}: not a regular file", name);
    }
    const auto size = static_cast<size_t>(info.st_size);
    if (size < 8) {
      ::close(fd);
      return invalid_argument("{}: {} bytes, too short for a safetensors header", name, size);
    }
    void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
    const int error = errno;
    ::close(fd);
    if (data == MAP_FAILED)
      return invalid_argument("{}: cannot be mapped: {}", name, std::strerror(error));
    ::madvise(data, size, MADV_SEQUENTIAL);
    return std::shared_ptr<Mapping>(new Mapping(data, size));
  }
  ~Mapping() { ::munmap(data_, size_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  const std::byte* data() const { return static_cast<const std::byte*>(data_); }
  size_t size() const { return size_; }

 private:
  Mapping(void* data, size_t size) : data_(data), size_(size) {}
  void* data_;
  size_t size_;
};

namespace {

constexpr size_t kMaxHeaderBytes = 100'000'000;  // the bound of the reference implementation
constexpr size_t kMaxIndexBytes = 100'000'000;
constexpr size_t kMaxDims = 8;

struct FormatDType {
  const char* name;
  int bits;
  std::optional<DType> dtype;
};
// Every dtype of the format: sizes are checked even for tensors nobody asks for.
constexpr FormatDType kDTypes[] = {
    {"F32", 32, DType::f32}, {"F16", 16, DType::f16}, {"BF16", 16, DType::bf16},
    {"I32", 32, DType::i32}, {"I64", 64, DType::i64}, {"U8", 8, DType::u8},
    {"U32", 32, DType::u32}, {"U64", 64, DType::u64}, {"F8_E4M3", 8, DType::fp8_e4m3},
    {"I8", 8, DType::int8},  {"F64", 64, {}},         {"BOOL", 8, {}},
    {"I16", 16, {}},         {"U16", 16, {}},         {"F8_E5M2", 8, {}},
    {"F8_E8M0", 8, {}},      {"C64", 64, {}},         {"F4", 4, {}},
    {"F6_E2M3", 6, {}},      {"F6_E3M2", 6, {}},
};

bool is_plain(std::string_view name) {
  return std::none_of(name.begin(), name.end(),
                      [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

// One entry of a header against a data section of `section_bytes`.
absl::Status read_entry(const Json& entry, size_t section_bytes, const std::byte* section,
                        StoredTensor& out) {
  const auto bad = [&](std::string_view why) {
    return invalid_argument("{}: tensor {}: {}", out.file, short_name(out.name), why);
  };
  if (!entry.is_object()) return bad("expected an object, found " + describe(entry));
  for (const auto& [key, value] : entry.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets")
      return bad("unknown key \"" + short_name(key) + "\"");
  }
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) return bad("\"dtype\" must be a string");
  const FormatDType* format = nullptr;
  for (const FormatDType& d : kDTypes)
    if (dtype->get_ref<const std::string&>() == d.name) format = &d;
  if (!format) return bad("unknown dtype " + describe(*dtype));
  out.dtype_name = format->name;
  out.dtype = format->dtype;

  const auto shape = entry.find("shape");
  if (shape == entry.end() || !shape->is_array() || shape->size() > kMaxDims)
    return bad(fmt::format("\"shape\" must be a list of at most {} sizes", kMaxDims));
  // Sizes are multiplied with care: a header may claim anything.
  uint64_t bits = static_cast<uint64_t>(format->bits);
  for (const Json& dim : *shape) {
    if (!dim.is_number_unsigned() || dim.get<uint64_t>() > uint64_t{1} << 48)
      return bad("\"shape\" has " + describe(dim) + ", expected a size");
    if (__builtin_mul_overflow(bits, dim.get<uint64_t>(), &bits))
      return bad("\"shape\" is too large");
    out.shape.push_back(dim.get<int64_t>());
  }
  if (bits % 8 != 0) return bad("its size is not a whole number of bytes");
  out.bytes = bits / 8;

  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned())
    return bad("\"data_offsets\" must be two offsets");
  const uint64_t begin = (*offsets)[0], end = (*offsets)[1];
  if (begin > end || end > section_bytes)
    return bad(fmt::format("data_offsets [{}, {}] are outside the file's {} data bytes", begin, end,
                           section_bytes));
  if (end - begin != out.bytes)
    return bad(fmt::format("{} {} takes {} bytes, data_offsets span {}", out.dtype_name,
                           shape_text(out.shape), out.bytes, end - begin));
  out.data = section + begin;
  return absl::OkStatus();
}

// Tensors tile the data section: no byte belongs to two, none to nobody.
absl::Status check_tiling(std::string_view file, const std::vector<StoredTensor>& stored,
                          const std::byte* section, size_t section_bytes) {
  std::vector<const StoredTensor*> tensors;
  for (const StoredTensor& t : stored) tensors.push_back(&t);
  std::sort(tensors.begin(), tensors.end(), [](const StoredTensor* a, const StoredTensor* b) {
    return std::pair(a->data, a->bytes) < std::pair(b->data, b->bytes);
  });
  size_t at = 0;
  for (const StoredTensor* t : tensors) {
    const auto begin = static_cast<size_t>(t->data - section);
    if (begin < at)
      return invalid_argument("{}: tensor {} overlaps another at data byte {}", file,
                              short_name(t->name), begin);
    if (begin > at)
      return invalid_argument("{}: data bytes {} to {} belong to no tensor", file, at, begin);
    at = begin + t->bytes;
  }
  if (at != section_bytes)
    return invalid_argument("{}: data bytes {} to {} belong to no tensor", file, at, section_bytes);
  return absl::OkStatus();
}

}  // namespace

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

absl::Status Safetensors::add_file(const std::filesystem::path& path) {
  absl::StatusOr<std::shared_ptr<Mapping>> mapping = Mapping::open(path);
  if (!mapping.ok()) return mapping.status();
  const std::string file = path.filename().string();
  const Mapping& map = **mapping;
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, map.data(), 8);
  if (header_bytes > kMaxHeaderBytes)
    return invalid_argument("{}: header of {} bytes, at most {} are read", file, header_bytes,
                            kMaxHeaderBytes);
  if (header_bytes > map.size() - 8)
    return invalid_argument("{}: header of {} bytes in a file of {}: truncated?", file,
                            header_bytes, map.size());
  const std::string_view text(reinterpret_cast<const char*>(map.data()) + 8, header_bytes);
  absl::StatusOr<Json> header = parse_json_object(text, file + ": header");
  if (!header.ok()) return header.status();

  const std::byte* section = map.data() + 8 + header_bytes;
  const size_t section_bytes = map.size() - 8 - header_bytes;
  std::vector<StoredTensor> here;
  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) return invalid_argument("{}: __metadata__ must be an object", file);
      continue;
    }
    if (!is_plain(name))  // names are printed
      return invalid_argument("{}: tensor {}: a control character in its name", file,
                              short_name(name));
    StoredTensor tensor;
    tensor.name = name;
    tensor.file = file;
    if (absl::Status s = read_entry(entry, section_bytes, section, tensor); !s.ok()) return s;
    if (const StoredTensor* other = find(name))
      return invalid_argument("{}: tensor {} is also in {}", file, short_name(name), other->file);
    here.push_back(std::move(tensor));
  }
  if (absl::Status s = check_tiling(file, here, section, section_bytes); !s.ok()) return s;
  for (StoredTensor& tensor : here) {
    by_name_.emplace(tensor.name, tensors_.size());
    bytes_ += tensor.bytes;
    tensors_.push_back(std::move(tensor));
  }
  files_.push_back(*std::move(mapping));
  return absl::OkStatus();
}

void Safetensors::add_shards(const std::filesystem::path& index,
                             std::vector<absl::Status>& problems) {
  const std::string name = index.filename().string();
  const auto add = [&](absl::Status s) { problems.push_back(std::move(s)); };
  absl::StatusOr<std::string> text = read_text_file(index, kMaxIndexBytes);
  if (!text.ok()) return add(text.status());
  absl::StatusOr<Json> json = parse_json_object(*text, name);
  if (!json.ok()) return add(json.status());
  const auto map = json->find("weight_map");
  if (map == json->end() || !map->is_object() || map->empty())
    return add(invalid_argument("{}: \"weight_map\" must be an object of tensor to file", name));
  std::set<std::string> shards, unread;
  for (const auto& [tensor, shard] : map->items()) {
    // A shard lies beside its index: a name with a folder could reach any file.
    if (!shard.is_string() || shard.get_ref<const std::string&>().empty() ||
        shard.get_ref<const std::string&>().find('/') != std::string::npos ||
        !is_plain(shard.get_ref<const std::string&>()))
      return add(invalid_argument("{}: tensor {}: {} is not a file name", name, short_name(tensor),
                                  describe(shard)));
    shards.insert(shard.get<std::string>());
  }
  for (const std::string& shard : shards) {
    absl::Status s = add_file(index.parent_path() / shard);
    if (absl::IsNotFound(s)) s = not_found("{}: shard {} is missing", name, short_name(shard));
    if (s.ok()) continue;
    add(std::move(s));
    unread.insert(shard);
  }
  for (const auto& [tensor, shard] : map->items()) {
    const std::string& file = shard.get_ref<const std::string&>();
    const StoredTensor* found = find(tensor);
    if (unread.contains(file)) {
      if (!found) lost_.insert(tensor);
    } else if (!found || found->file != file) {
      add(invalid_argument("{}: tensor {} is not in {}", name, short_name(tensor),
                           short_name(file)));
    }
  }
}

Safetensors Safetensors::review(const std::filesystem::path& dir,
                                std::vector<absl::Status>& problems) {
  std::error_code error;
  const auto exists = [&](const char* name) { return std::filesystem::exists(dir / name, error); };
  Safetensors result;
  result.source_ = "model.safetensors";
  if (exists("model.safetensors")) {
    if (absl::Status s = result.add_file(dir / result.source_); !s.ok()) problems.push_back(s);
  } else if (exists("model.safetensors.index.json")) {
    result.source_ = "model.safetensors.index.json";
    result.add_shards(dir / result.source_, problems);
  } else {
    problems.push_back(
        not_found("{}: neither model.safetensors nor model.safetensors.index.json{}", dir.string(),
                  exists("pytorch_model.bin") || exists("pytorch_model.bin.index.json")
                      ? " (pytorch_model.bin is not read: convert it to safetensors)"
                      : ""));
  }
  return result;
}

absl::StatusOr<Safetensors> Safetensors::open(const std::filesystem::path& dir) {
  std::vector<absl::Status> problems;
  Safetensors result = review(dir, problems);
  if (!problems.empty()) return problems.front();
  return result;
}

Safetensors Safetensors::of(std::vector<StoredTensor> tensors, std::string source) {
  Safetensors result;
  result.source_ = std::move(source);
  result.tensors_ = std::move(tensors);
  for (size_t i = 0; i < result.tensors_.size(); ++i) {
    result.by_name_.emplace(result.tensors_[i].name, i);
    result.bytes_ += result.tensors_[i].bytes;
  }
  return result;
}

bool Safetensors::is_lost(std::string_view name) const {
  return lost_.contains(absl::string_view(name.data(), name.size()));
}

const StoredTensor* Safetensors::find(std::string_view name) const {
  const auto it = by_name_.find(absl::string_view(name.data(), name.size()));
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

}  // namespace sluice
