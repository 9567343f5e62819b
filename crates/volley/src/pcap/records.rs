//! A buffered file that ends with a whole record, also when its disk is full.

use std::{
    fs::File,
    io::{self, Write},
};

/// A super-packet and its neighbours in one write.
const BUFFER: usize = 256 << 10;

/// What a [`Records`] writes to.
pub(crate) trait Store: Write {
    /// Gives up what is behind the first `len` bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

impl Store for File {
    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

/// Takes one record with each [`write`](Write::write), and writes many together. When that fails, what is
/// left of the last record is cut off. Dropped, it writes what it still holds.
#[derive(Debug)]
pub(crate) struct Records<S: Store> {
    store: S,
    /// Bytes of the whole records in the store.
    stored: u64,
    buffer: Vec<u8>,
    /// Where in the buffer each record ends.
    ends: Vec<usize>,
}

impl<S: Store> Records<S> {
    /// `store` is empty.
    pub(crate) fn new(store: S) -> Self {
        Self { store, stored: 0, buffer: Vec::with_capacity(BUFFER), ends: Vec::new() }
    }

    /// Writes the buffer, and gives how far that went.
    fn store(&mut self) -> (usize, io::Result<()>) {
        let mut done = 0;
        while let Some(rest) = self.buffer.get(done..).filter(|rest| !rest.is_empty()) {
            match self.store.write(rest) {
                Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
                Ok(len) => done += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (done, Err(error)),
            }
        }
        (done, Ok(()))
    }
}

impl<S: Store> Write for Records<S> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        if !self.buffer.is_empty() && self.buffer.len() + record.len() > BUFFER {
            self.flush()?;
        }
        self.buffer.extend_from_slice(record);
        self.ends.push(self.buffer.len());
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let (done, result) = self.store();
        let whole = self.ends.iter().rev().find(|end| **end <= done).copied().unwrap_or(0);
        self.stored += whole as u64;
        self.buffer.clear();
        self.ends.clear();
        if result.is_err() {
            let _ = self.store.truncate(self.stored); // what failed is the better answer
        }
        result
    }
}

impl<S: Store> Drop for Records<S> {
    fn drop(&mut self) {
        let _ = self.flush(); // there is nobody to tell
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A disk with little room, which takes what fits and then no more.
    #[derive(Clone, Debug)]
    struct Disk {
        bytes: Arc<Mutex<Vec<u8>>>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut stored = self.bytes.lock().unwrap();
            let fits = bytes.len().min(self.room - stored.len()).min(7); // never much at once
            stored.extend(&bytes[..fits]);
            if fits == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(fits) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Store for Disk {
        fn truncate(&mut self, len: u64) -> io::Result<()> {
            self.bytes.lock().unwrap().truncate(len as usize);
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_holds_the_whole_records_that_fit() {
        for room in 0..200 {
            let disk = Disk { bytes: Arc::default(), room };
            let mut records = Records::new(disk.clone());
            let (mut all, mut fit, mut failed) = (Vec::<u8>::new(), 0, false);
            for len in 1..=20 {
                let record = vec![len; usize::from(len)];
                all.extend(&record);
                fit = if all.len() <= room { all.len() } else { fit };
                records.write_all(&record).unwrap();
                failed = records.flush().is_err();
                if failed {
                    break;
                }
            }
            drop(records);
            assert!(failed, "210 bytes do not fit into {room}");
            assert!(*disk.bytes.lock().unwrap() == all[..fit], "{room} bytes of room");
        }
    }

    #[test]
    fn many_records_are_one_write_and_the_end_writes_the_rest() {
        for room in [40, 1_000] {
            let disk = Disk { bytes: Arc::default(), room };
            let mut records = Records::new(disk.clone());
            for _ in 0..5 {
                records.write_all(&[1; 9]).unwrap();
            }
            assert!(disk.bytes.lock().unwrap().is_empty());
            drop(records);
            assert_eq!(disk.bytes.lock().unwrap().len(), if room == 40 { 36 } else { 45 });
        }
    }

    #[test]
    fn a_buffer_is_written_before_it_outgrows_its_bound() {
        let disk = Disk { bytes: Arc::default(), room: usize::MAX };
        let mut records = Records::new(disk.clone());
        for _ in 0..5 {
            records.write_all(&[1; 65_551]).unwrap();
            assert!(records.buffer.len() <= BUFFER);
        }
        assert_eq!(disk.bytes.lock().unwrap().len(), 3 * 65_551);
    }
}
