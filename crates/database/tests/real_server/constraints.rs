//! A violated constraint is an internal error, unless the store that wrote the statement says otherwise.

use database::map_error;
use problem::Kind;

use crate::world::World;

async fn violate(world: &World) -> sqlx::Error {
    let pool = world.database.pool();
    let insert = sqlx::query("INSERT INTO public.item VALUES (1), (1)").execute(&pool);
    world.database.bounded("violate", insert).await.unwrap_err()
}

#[tokio::test]
async fn a_violated_constraint_is_an_internal_error() {
    let world = World::new().await;
    world
        .sql(
            "CREATE TABLE public.item (id int CONSTRAINT item_id_key UNIQUE); \
             GRANT ALL ON public.item TO public; GRANT USAGE ON SCHEMA public TO public",
        )
        .await;
    assert_eq!(map_error(violate(&world).await).kind(), Kind::Internal);
}
