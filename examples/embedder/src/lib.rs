//! A notebook that is kept in a synchronised tree: the least application that has something to
//! test.

use vfs_sync_testkit::client::core::item::Name;
use vfs_sync_testkit::client::{ClientError, SyncClient};

/// Notes, each a file in one folder.
pub struct Notebook(SyncClient);

impl Notebook {
    /// The notebook in the user's tree; it is made where there is none.
    pub fn open(client: SyncClient) -> Result<Self, Box<dyn std::error::Error>> {
        if client.resolve("Notes").is_err() {
            client.create_folder(None, Name::new("Notes")?)?;
        }
        Ok(Self(client))
    }

    /// Writes a note.
    pub fn write(&self, title: &str, text: &str) -> Result<(), Box<dyn std::error::Error>> {
        let path = format!("Notes/{title}");
        let note = match self.0.resolve(&path) {
            Ok(note) => note.id,
            Err(_) => {
                let folder = self.0.resolve("Notes")?.id;
                self.0.create_file(Some(&folder), Name::new(title)?)?
            }
        };
        self.0.contents().put(&note, text.as_bytes())?;
        Ok(())
    }

    /// Reads a note.
    pub async fn read(&self, title: &str) -> Result<String, ClientError> {
        let note = self.0.resolve(&format!("Notes/{title}"))?.id;
        let content = self.0.contents().read(&note).await?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut content.reader()?, &mut text)
            .map_err(|error| ClientError::Storage(error.to_string()))?;
        Ok(text)
    }
}
