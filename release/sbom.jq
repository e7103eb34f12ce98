# A bill of materials (CycloneDX 1.5) out of `cargo metadata`: the crates that the binary is made of, with
# their licences, where they come from and the sum that Cargo.lock holds them to. Which these are says
# `cargo tree` ($tree), because the metadata are of tests and benches as well. $time and $lock (the lock file)
# come from outside too: nothing in it is of the day or the machine.

# Where a crate is found: https://github.com/package-url/purl-spec
def purl: "pkg:cargo/\(.name)@\(.version)";

# The sums of Cargo.lock, by name and version.
def sums:
  [$lock | split("[[package]]\n")[1:][]
    | [capture("(?<key>name|version|checksum) = \"(?<value>[^\"]*)\""; "g")] | from_entries
    | select(.checksum) | { key: "\(.name) \(.version)", value: .checksum }] | from_entries;

def component($sums):
  { type: "library", name, version, "bom-ref": purl, purl: purl, scope: "required" }
  + (if .description then { description: (.description | gsub("\\s+"; " ")) } else {} end)
  + (if .license then { licenses: [{ expression: (.license | gsub(" */ *"; " OR ")) }] } else {} end)
  + ($sums["\(.name) \(.version)"] as $sum
      | if $sum then { hashes: [{ alg: "SHA-256", content: $sum }] } else {} end)
  + (if .repository then { externalReferences: [{ type: "vcs", url: .repository }] } else {} end);

($tree | [split("\n")[] | select(. != "") | split(" ") | "\(.[0]) \(.[1] | ltrimstr("v"))"]) as $linked
| sums as $sums
| .resolve.root as $root
| ([.packages[] | select("\(.name) \(.version)" | IN($linked[])) | { key: .id, value: . }] | from_entries) as $packages
| {
    bomFormat: "CycloneDX",
    specVersion: "1.5",
    version: 1,
    metadata: {
      timestamp: $time,
      component: ($packages[$root] | component($sums) | .type = "application" | del(.scope))
    },
    components: [$packages[] | select(.id != $root) | component($sums)] | sort_by(.purl),
    dependencies: [.resolve.nodes[] | $packages[.id] as $package | select($package)
      | { ref: ($package | purl), dependsOn: [.dependencies[] | $packages[.] | select(.) | purl] | sort }]
      | sort_by(.ref)
  }
