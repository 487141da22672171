//! What every backend promises, each promise a sentence, kept by a real file and by a real server.
//!
//! A promise is a function of [`Records`]; the list at its file's end runs it on each backend.

mod admission;
mod alerts;
mod incidents;
mod packages;
mod ssh;
mod tasks;
mod windows;
mod words;

use std::sync::Arc;

use caelum_store::{Address, Store};
use caelum_testkit::postgres::PostgresServer;

/// Records that are a test's own, and where they are.
pub struct Records {
    /// A handle to them.
    pub store: Arc<Store>,
    address: Address,
    _folder: Option<tempfile::TempDir>,
}

impl Records {
    /// In a new file.
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let address = Address::Sqlite(folder.path().join("caelum.db"));
        Self::open(address, Some(folder)).await
    }

    /// In a new database of the shared server.
    pub async fn postgres() -> Self {
        let name = tokio::task::spawn_blocking(|| PostgresServer::shared().new_database())
            .await
            .expect("no panic")
            .expect("a new database");
        let address = PostgresServer::shared().url(&name).parse().expect("an address");
        Self::open(address, None).await
    }

    async fn open(address: Address, folder: Option<tempfile::TempDir>) -> Self {
        let store = Arc::new(Store::connect(&address).await.expect("opens"));
        Self { store, address, _folder: folder }
    }

    /// Another handle to the same records, as another process has.
    pub async fn another(&self) -> Arc<Store> {
        Arc::new(Store::connect(&self.address).await.expect("opens again"))
    }

    /// Closes the handle and opens another.
    pub async fn reopened(self) -> Self {
        self.store.close();
        let store = self.another().await;
        Self { store, ..self }
    }
}

/// Runs promises on each backend.
#[macro_export]
macro_rules! promised {
    ($($promise:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() { super::$promise($crate::Records::sqlite().await).await; })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() { super::$promise($crate::Records::postgres().await).await; })+
        }
    };
}
