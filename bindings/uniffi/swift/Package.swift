// swift-tools-version: 5.9
import PackageDescription

let library = Context.packageDirectory + "/lib"

let package = Package(
    name: "vfs-sync",
    platforms: [.macOS(.v12), .iOS(.v15)],
    products: [.library(name: "VfsSync", targets: ["VfsSync"])],
    targets: [
        .systemLibrary(name: "VfsSyncFFI"),
        .target(
            name: "VfsSync",
            dependencies: ["VfsSyncFFI"],
            linkerSettings: [.unsafeFlags(["-L\(library)", "-Xlinker", "-rpath", "-Xlinker", library])]
        ),
    ]
)
