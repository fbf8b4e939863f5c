use std::process::Command;

use super::*;

/// A small ext4 of its own, mounted for one test.
struct Mounted {
    at: tempfile::TempDir,
    _image: tempfile::NamedTempFile,
}

impl Mounted {
    fn ext4(bytes: u64) -> Self {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(bytes).unwrap();
        let at = tempfile::tempdir().unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(image.path()));
        run(Command::new("mount").args(["-o", "loop"]).arg(image.path()).arg(at.path()));
        Self { at, _image: image }
    }
    fn remount(&self, options: &str) {
        run(Command::new("mount").args(["-o", options]).arg(self.at.path()));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(self.at.path()));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_full_disk_refuses_and_keeps_what_was_there() {
    let disk = Mounted::ext4(16 << 20);
    let bench = Bench::over(disk.at.path());
    assert_eq!(bench.send("PUT", "/eng/file", &[], "old").await.status, 201);
    assert_eq!(bench.send("PUT", "/eng/half", &[], vec![1; 7 << 20]).await.status, 201);
    for path in ["/eng/file", "/eng/new"] {
        let reply = bench.send("PUT", path, &[], vec![0; 32 << 20]).await;
        assert_eq!(reply.status, 507, "{path}");
        bench.becomes_tidy().await;
    }
    let to = [("destination", "/eng/copy")];
    assert_eq!(bench.status("COPY", "/eng/half", &to).await, 507);
    assert_eq!(bench.read("file"), "old");
    assert!(!bench.at("new").exists() && !bench.at("copy").exists() && bench.tidy());
    // What was in the way was cleared: there is room again.
    assert_eq!(bench.status("DELETE", "/eng/half", &[]).await, 204);
    assert_eq!(bench.send("PUT", "/eng/new", &[], vec![0; 7 << 20]).await.status, 201);
}

#[tokio::test]
async fn a_disk_that_may_not_be_written() {
    let disk = Mounted::ext4(4 << 20);
    let bench = Bench::over(disk.at.path());
    bench.write("file", "old");
    disk.remount("remount,ro");
    for (method, path) in [
        ("PUT", "/eng/file"),
        ("PUT", "/eng/new"),
        ("MKCOL", "/eng/dir"),
        ("DELETE", "/eng/file"),
        ("COPY", "/eng/file"),
        ("MOVE", "/eng/file"),
    ] {
        let fields = [("destination", "/eng/dest")];
        assert_eq!(bench.status(method, path, &fields).await, 403, "{method} {path}");
    }
    assert_eq!(bench.ask("GET", "/eng/file").await.text(), "old");
}

#[tokio::test]
async fn a_mounted_disk_inside_the_share_is_not_entered() {
    let bench = Bench::new();
    std::fs::create_dir(bench.at("mount")).unwrap();
    let disk = Mounted::ext4(4 << 20);
    std::fs::write(disk.at.path().join("file"), "x").unwrap();
    run(Command::new("mount").arg("--bind").arg(disk.at.path()).arg(bench.at("mount")));
    let seen = [
        bench.status("GET", "/eng/mount/file", &[]).await,
        bench.status("PUT", "/eng/mount/new", &[]).await,
        bench.status("DELETE", "/eng/mount", &[]).await,
    ];
    let listed = bench.send("PROPFIND", "/eng/", &[("depth", "1")], "").await.text().contains("mount");
    run(Command::new("umount").arg("-l").arg(bench.at("mount")));
    assert_eq!(seen, [403; 3]);
    assert!(!listed && disk.at.path().join("file").exists());
}

#[tokio::test]
async fn a_directory_of_many_entries() {
    let bench = Bench::new();
    std::fs::create_dir(bench.at("many")).unwrap();
    for n in 0..20_000 {
        bench.write(&format!("many/{n:05}"), "");
    }
    let fields = [("depth", "1")];
    let all = bench.send("PROPFIND", "/eng/many/", &fields, "").await;
    assert_eq!(all.text().matches("<D:response>").count(), 20_001);
    let page = bench.ask("GET", "/eng/many/").await;
    assert_eq!(page.text().matches("<a href=\"./").count(), 20_000);
    let to = [("destination", "/eng/copy")];
    assert_eq!(bench.status("COPY", "/eng/many", &to).await, 201);
    assert_eq!(bench.status("DELETE", "/eng/many", &[]).await, 204);
    assert_eq!(std::fs::read_dir(bench.at("copy")).unwrap().count(), 20_000);
    assert!(bench.tidy());
}

/// ext4 keeps 4 KiB of attributes with a file.
#[tokio::test]
async fn properties_that_the_disk_has_no_room_for() {
    let disk = Mounted::ext4(4 << 20);
    let bench = Bench::over(disk.at.path());
    bench.write("file", "x");
    let set = |name: &str, value: &str| {
        format!(
            "<propertyupdate xmlns='DAV:'><set><prop><{name} xmlns='urn:x'>{value}</{name}></prop></set>\
             </propertyupdate>"
        )
    };
    let patch = async |body| bench.send("PROPPATCH", "/eng/file", &[], body).await;
    let all = async || bench.send("PROPFIND", "/eng/file", &[("depth", "0")], "").await;
    assert!(patch(set("a", "red")).await.text().contains("200 OK"));
    let reply = patch(set("a", &"x".repeat(5000))).await;
    assert!(
        reply.status == 207 && reply.text().contains("507 Insufficient Storage"),
        "{}",
        reply.text()
    );
    assert!(reply.text().contains("ext4 keeps 4 KiB"), "{}", reply.text());
    assert!(all().await.text().contains("<a xmlns=\"urn:x\">red</a>"));
    disk.remount("remount,ro");
    let reply = patch(set("a", "blue")).await;
    assert!(reply.status == 207 && reply.text().contains("403 Forbidden"), "{}", reply.text());
    assert!(all().await.text().contains("<a xmlns=\"urn:x\">red</a>"));
}
