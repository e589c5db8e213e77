// Classify an image with a file of `scalablevit export --format onnx --uint8`, by ONNX Runtime's C++ API.
//
//   g++ -std=c++17 -I ONNXRUNTIME/include examples/onnx_classify.cpp -L ONNXRUNTIME/lib -lonnxruntime -o onnx_classify
//   convert photo.jpg -resize 256x256^ -gravity center -extent 224x224 photo.ppm     # or another tool: binary PPM
//   ./onnx_classify model.onnx photo.ppm
//
// The metadata under the key "scalablevit", JSON, name the size and the classes; here they are printed by number.
// Where they hold "multi_label": true, classes do not exclude each other: print 1 / (1 + exp(-logit)) of each instead.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> rgb;  // height * width * 3
};

Image read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int64_t largest = 0;
  Image image;
  file >> kind >> image.width >> image.height >> largest;
  file.get();  // the one white space behind the header
  const int64_t longest_side = 16384;
  if (!file || kind != "P6" || largest != 255 || image.width < 1 || image.height < 1 || image.width > longest_side ||
      image.height > longest_side)
    throw std::runtime_error(path + " is no binary PPM (P6) of 8 bits without comments");
  image.rgb.resize(image.height * image.width * 3);
  if (!file.read(reinterpret_cast<char*>(image.rgb.data()), image.rgb.size()))
    throw std::runtime_error(path + " is truncated");
  return image;
}

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::cerr << "usage: onnx_classify MODEL.onnx IMAGE.ppm\n";
    return 2;
  }
  Image image = read_ppm(argv[2]);
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "onnx_classify");
  Ort::Session session(env, argv[1], Ort::SessionOptions());
  const std::array<int64_t, 4> shape = {1, image.height, image.width, 3};  // (N, H, W, C) of bytes
  Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  Ort::Value input =
      Ort::Value::CreateTensor<uint8_t>(memory, image.rgb.data(), image.rgb.size(), shape.data(), shape.size());
  const char *inputs[] = {"images"}, *outputs[] = {"logits"};
  std::vector<Ort::Value> found = session.Run(Ort::RunOptions(), inputs, &input, 1, outputs, 1);
  const size_t count = found[0].GetTensorTypeAndShapeInfo().GetElementCount();
  const float* logits = found[0].GetTensorData<float>();

  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += std::exp(double(logits[i] - logits[order[0]]));
  for (size_t i = 0; i < std::min<size_t>(5, count); ++i)
    std::cout << order[i] << "\t" << std::exp(double(logits[order[i]] - logits[order[0]])) / sum << "\n";
  return 0;
} catch (const std::exception& error) {
  std::cerr << "onnx_classify: error: " << error.what() << "\n";
  return 1;
}
