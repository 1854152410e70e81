//! Small file systems of their own, for tests of what happens when one is full or slow.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use streambus_shards::disk;
use tempfile::TempDir;

/// A mounted file system. Dropped, it is unmounted and its image removed.
pub(crate) struct Volume {
    home: TempDir,
    /// The loop device, if there is one.
    device: Option<String>,
}

impl Volume {
    /// Memory of this many bytes.
    pub(crate) fn tmpfs(bytes: u64) -> Result<Volume, String> {
        let home = tempfile::tempdir().map_err(|error| error.to_string())?;
        let point = Volume::mount_point(&home)?;
        let size = format!("size={bytes}");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&point))?;
        Ok(Volume { home, device: None })
    }

    /// ext4 in a file of this many bytes, behind a loop device.
    pub(crate) fn ext4(bytes: u64) -> Result<Volume, String> {
        let home = tempfile::tempdir().map_err(|error| error.to_string())?;
        let point = Volume::mount_point(&home)?;
        let image = home.path().join("image");
        File::create(&image)
            .and_then(|file| file.set_len(bytes))
            .map_err(|error| error.to_string())?;
        // No blocks kept for root: the test runs as root and must see the disk as full as others do.
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0"])
            .arg(&image))?;
        let device = run(Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on"])
            .arg(&image))?;
        let volume = Volume {
            home,
            device: Some(device.clone()),
        };
        run(Command::new("mount").arg(&device).arg(&point))?;
        Ok(volume)
    }

    fn mount_point(home: &TempDir) -> Result<PathBuf, String> {
        let point = home.path().join("volume");
        fs::create_dir(&point).map_err(|error| error.to_string())?;
        Ok(point)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.home.path().join("volume")
    }

    /// The loop device's numbers, as `MAJOR:MINOR`.
    pub(crate) fn device_numbers(&self) -> String {
        let device = self.device.as_deref().unwrap();
        let name = Path::new(device).file_name().unwrap().to_str().unwrap();
        let numbers = fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
        numbers.trim().to_owned()
    }

    /// Bytes that may still be written.
    pub(crate) fn free_bytes(&self) -> u64 {
        disk::free_bytes(&self.path()).unwrap()
    }

    /// Takes what is free, as another program would.
    pub(crate) fn fill(&self) -> Ballast {
        let names = (0..).map(|nth| self.path().join(format!("ballast-{nth}")));
        let path = names.into_iter().find(|path| !path.exists()).unwrap();
        let mut file = File::create(&path).unwrap();
        let zeros = vec![0; 1 << 20];
        for piece in [zeros.len(), 4_096] {
            while file.write_all(&zeros[..piece]).is_ok() {}
        }
        // Where writes are buffered the file system learns of them only now.
        let _ = file.sync_all();
        Ballast { path }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Nothing to be done if it fails: the machine keeps a mount.
        let _ = run(Command::new("umount").arg("--lazy").arg(self.path()));
        if let Some(device) = &self.device {
            let _ = run(Command::new("losetup").args(["--detach", device]));
        }
    }
}

/// Space that is taken until this is dropped.
pub(crate) struct Ballast {
    path: PathBuf,
}

impl Drop for Ballast {
    fn drop(&mut self) {
        fs::remove_file(&self.path).unwrap();
    }
}

/// The volume, or a line that says why the test is skipped: mounting needs root.
pub(crate) fn or_skip(test: &str, volume: Result<Volume, String>) -> Option<Volume> {
    volume
        .inspect_err(|reason| println!("SKIP {test}: no small file system here: {reason}"))
        .ok()
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{}: {}",
        command.get_program().display(),
        said.trim()
    ))
}
